import type { WorkflowStartOptions } from '@temporalio/client';
import type { ProvisionDevice } from '../workflows/provision-device.ts';
import type { RotateCertificate } from '../workflows/rotate-certificate.ts';
import { searchAttributePairs } from '../workflows/search-attributes.ts';

type StartOptions = Pick<
  WorkflowStartOptions,
  'workflowIdReusePolicy' | 'workflowIdConflictPolicy' | 'staticSummary' | 'typedSearchAttributes'
>;

/** A key may enrol again after its hour, so a finished run does not stand in the way of another. */
export const startsProvisionDevice = ({ claimId }: ProvisionDevice, template?: string): StartOptions => ({
  workflowIdConflictPolicy: 'USE_EXISTING',
  workflowIdReusePolicy: 'ALLOW_DUPLICATE',
  staticSummary: template ? `Enrols a device of template ${template}` : `Enrols a device under claim ${claimId}`,
  typedSearchAttributes: searchAttributePairs({ template, status: 'ISSUED', waitingFor: 'registration' }),
});

/** A device rotates again and again. */
export const startsRotateCertificate = ({ device }: RotateCertificate): StartOptions => ({
  workflowIdConflictPolicy: 'USE_EXISTING',
  workflowIdReusePolicy: 'ALLOW_DUPLICATE',
  staticSummary: `Rotation of the certificate of ${device}`,
  typedSearchAttributes: searchAttributePairs({ device, status: 'BEGUN' }),
});
