import type { WorkflowStartOptions } from '@temporalio/client';
import type { Lifecycles } from '../db/outbox.ts';
import { decommissionDeviceId, type DecommissionDevice } from '../workflows/decommission-device.ts';
import { startsProvisionDevice, startsRotateCertificate } from '../doors/lifecycle.ts';
import { registerDevicesId } from '../workflows/register-devices.ts';
import { rolloverAuthorityId } from '../workflows/rollover-authority.ts';
import { provisionDeviceId, type ProvisionDevice } from '../workflows/provision-device.ts';
import { revokeCertificateId, type RevokeCertificate } from '../workflows/revoke-certificate.ts';
import { rotateCertificateId, type RotateCertificate } from '../workflows/rotate-certificate.ts';
import type { RotateExpiring } from '../workflows/rotate-expiring.ts';
import { rolloutProgressed, runRolloutId, type RunRollout } from '../workflows/run-rollout.ts';
import { searchAttributePairs } from '../workflows/search-attributes.ts';
import { sendCommandId, type SendCommand } from '../workflows/send-command.ts';

type StartOptions = Pick<
  WorkflowStartOptions,
  'workflowIdReusePolicy' | 'workflowIdConflictPolicy' | 'staticSummary' | 'typedSearchAttributes'
>;
/** `poke` is the signal that goes with the start. */
type Start = StartOptions & { poke?: string };

/** The workflow types that the gateway may start. */
export const provisionDeviceType = 'provisionDevice';
export const sendCommandType = 'sendCommand';
export const runRolloutType = 'runRollout';
export const revokeCertificateType = 'revokeCertificate';
export const decommissionDeviceType = 'decommissionDevice';
export const rotateCertificateType = 'rotateCertificate';
export const rotateExpiringType = 'rotateExpiring';
const rolloverAuthorityType = 'rolloverAuthority';
export const registerDevicesType = 'registerDevices';

/** A command is sent once: where it has run already, a start is done. */
export const startsSendCommand = ({ commandId, device }: SendCommand): StartOptions => ({
  workflowIdConflictPolicy: 'USE_EXISTING',
  workflowIdReusePolicy: 'REJECT_DUPLICATE',
  staticSummary: device ? `Command ${commandId} to ${device}` : `Command ${commandId}`,
  typedSearchAttributes: searchAttributePairs({ device, status: 'OPEN', waitingFor: 'answers' }),
});

/**
 * A rollout that has ended may be undone or retried, so it may run again. A run that has not noticed its end yet would not
 * notice what was asked after it: together with the start it is signalled, in one call, and looks again.
 */
export const startsRunRollout = ({ rolloutId }: RunRollout): Start => ({
  workflowIdConflictPolicy: 'USE_EXISTING',
  workflowIdReusePolicy: 'ALLOW_DUPLICATE',
  staticSummary: `Rollout ${rolloutId}`,
  typedSearchAttributes: searchAttributePairs({ status: 'CREATING', waitingFor: 'its devices to be enlisted' }),
  poke: rolloutProgressed.name,
});

/** A certificate is revoked once. */
export const startsRevokeCertificate = ({ certificateId }: RevokeCertificate): StartOptions => ({
  workflowIdConflictPolicy: 'USE_EXISTING',
  workflowIdReusePolicy: 'REJECT_DUPLICATE',
  staticSummary: `Revocation of certificate ${certificateId}`,
  typedSearchAttributes: searchAttributePairs({ status: 'DENIED', waitingFor: 'its sessions to be cut' }),
});

/** A device leaves the fleet once. */
export const startsDecommissionDevice = ({ device }: DecommissionDevice): StartOptions => ({
  workflowIdConflictPolicy: 'USE_EXISTING',
  workflowIdReusePolicy: 'REJECT_DUPLICATE',
  staticSummary: `Decommission of ${device}`,
  typedSearchAttributes: searchAttributePairs({ device, status: 'BLOCKED', waitingFor: 'its sessions to be cut' }),
});

/** What an operator asks for beside the schedule. */
export const startsRotateExpiring = ({ policy }: RotateExpiring): StartOptions => ({
  workflowIdConflictPolicy: 'USE_EXISTING',
  workflowIdReusePolicy: 'ALLOW_DUPLICATE',
  staticSummary: `Rotations of policy ${policy}`,
});

/** An authority takes over once. */
const startsRolloverAuthority: StartOptions = {
  workflowIdConflictPolicy: 'USE_EXISTING',
  workflowIdReusePolicy: 'REJECT_DUPLICATE',
  staticSummary: 'Rollover to another issuing authority',
  typedSearchAttributes: searchAttributePairs({ status: 'TELLING', waitingFor: 'devices to know its root' }),
};

/** A file is read once. */
const startsRegisterDevices: StartOptions = {
  workflowIdConflictPolicy: 'USE_EXISTING',
  workflowIdReusePolicy: 'REJECT_DUPLICATE',
  staticSummary: 'Registers the devices of a file',
  typedSearchAttributes: searchAttributePairs({ status: 'WAITING', waitingFor: 'the rest of the file' }),
};

/** How the workflow of a start row is started; undefined for a type that this release does not know. */
export function startOptions(type: string, argument: unknown): Start | undefined {
  // Start rows are written by our own statements, with the argument of the workflow that they name.
  if (type === provisionDeviceType) return startsProvisionDevice(argument as ProvisionDevice);
  if (type === sendCommandType) return startsSendCommand(argument as SendCommand);
  if (type === runRolloutType) return startsRunRollout(argument as RunRollout);
  if (type === revokeCertificateType) return startsRevokeCertificate(argument as RevokeCertificate);
  if (type === decommissionDeviceType) return startsDecommissionDevice(argument as DecommissionDevice);
  if (type === rotateCertificateType) return startsRotateCertificate(argument as RotateCertificate);
  if (type === rotateExpiringType) return startsRotateExpiring(argument as RotateExpiring);
  if (type === rolloverAuthorityType) return startsRolloverAuthority;
  if (type === registerDevicesType) return startsRegisterDevices;
  return undefined;
}

/** The names under which `db` appends starts. */
export const lifecycles: Lifecycles = {
  provisionDevice: { type: provisionDeviceType, idPrefix: provisionDeviceId('') },
  sendCommand: { type: sendCommandType, idPrefix: sendCommandId('') },
  runRollout: { type: runRolloutType, idPrefix: runRolloutId('') },
  decommissionDevice: { type: decommissionDeviceType, idPrefix: decommissionDeviceId('') },
  rotateCertificate: { type: rotateCertificateType, idPrefix: rotateCertificateId('') },
  rolloverAuthority: { type: rolloverAuthorityType, idPrefix: rolloverAuthorityId('') },
  registerDevices: { type: registerDevicesType, idPrefix: registerDevicesId('') },
  revokeCertificate: { type: revokeCertificateType, idPrefix: revokeCertificateId('') },
};
