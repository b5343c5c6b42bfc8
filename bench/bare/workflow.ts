import { allHandlersFinished, condition, defineSignal, defineUpdate, proxyLocalActivities } from '@temporalio/workflow';
import { setHandler, sleep } from '@temporalio/workflow';

export type BareActivities = { first(): Promise<void>; second(): Promise<void> };

export const answer = defineUpdate('answer');
export const progressed = defineSignal('progressed');

const { first, second } = proxyLocalActivities<BareActivities>({ startToCloseTimeout: '5s' });

/** The least that an answer out of a workflow can cost: two local activities that do nothing. */
export async function bareWorkflow(): Promise<void> {
  let answered = false;
  setHandler(answer, async () => {
    await first();
    await second();
    answered = true;
  });
  await condition(() => answered && allHandlersFinished());
}

/** As many tasks as a rotation has, with as many local activities: begun, answered, told, and after a timer done. */
export async function bareTurns(): Promise<void> {
  let answered = false;
  let told = false;
  setHandler(answer, async () => {
    await first();
    answered = true;
  });
  setHandler(progressed, () => void (told = true));
  await first();
  await second();
  await condition(() => answered && told && allHandlersFinished());
  await second();
  await sleep(1);
  await first();
}
