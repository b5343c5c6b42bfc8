import type { Deps } from './deps.ts';
import { commandActivities } from './commands.ts';
import { enrolmentActivities } from './enrolments.ts';
import { rolloutActivities } from './rollouts.ts';

export const createActivities = (deps: Deps) => ({
  ...enrolmentActivities(deps),
  ...commandActivities(deps),
  ...rolloutActivities(deps),
});

export type Activities = ReturnType<typeof createActivities>;
