import type { Deps } from './deps.ts';
import { commandActivities } from './commands.ts';
import { enrolmentActivities } from './enrolments.ts';

export const createActivities = (deps: Deps) => ({ ...enrolmentActivities(deps), ...commandActivities(deps) });

export type Activities = ReturnType<typeof createActivities>;
