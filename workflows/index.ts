/** Every lifecycle that a worker runs. */
export { decommissionDevice } from './decommission-device.ts';
export { provisionDevice } from './provision-device.ts';
export { registerDevices } from './register-devices.ts';
export { revokeCertificate } from './revoke-certificate.ts';
export { rolloverAuthority } from './rollover-authority.ts';
export { rotateCertificate } from './rotate-certificate.ts';
export { rotateExpiring } from './rotate-expiring.ts';
export { runRollout } from './run-rollout.ts';
export { sendCommand } from './send-command.ts';
