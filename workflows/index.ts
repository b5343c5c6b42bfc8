/** Every lifecycle that a worker runs. */
export { provisionDevice } from './provision-device.ts';
export { runRollout } from './run-rollout.ts';
export { sendCommand } from './send-command.ts';
