import type { Deps } from './deps.ts';
import { commandActivities } from './commands.ts';
import { decommissionActivities } from './decommissions.ts';
import { decisionHookActivities } from './decision-hooks.ts';
import { enrolmentActivities } from './enrolments.ts';
import { registrationFileActivities } from './registration-files.ts';
import { revocationActivities } from './revocations.ts';
import { rolloutActivities } from './rollouts.ts';
import { rolloverActivities } from './rollovers.ts';
import { rotationActivities } from './rotations.ts';
import { rotationPolicyActivities } from './rotation-policies.ts';

export const createActivities = (deps: Deps) => ({
  ...enrolmentActivities(deps),
  ...decisionHookActivities(deps),
  ...commandActivities(deps),
  ...revocationActivities(deps),
  ...decommissionActivities(deps),
  ...registrationFileActivities(deps),
  ...rolloutActivities(deps),
  ...rolloverActivities(deps),
  ...rotationActivities(deps),
  ...rotationPolicyActivities(deps),
});

export type Activities = ReturnType<typeof createActivities>;
