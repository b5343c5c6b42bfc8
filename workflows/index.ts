/** Every lifecycle that a worker runs. */
export { provisionDevice } from './provision-device.ts';
export { sendCommand } from './send-command.ts';
