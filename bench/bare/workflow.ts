import { allHandlersFinished, condition, defineUpdate, proxyLocalActivities, setHandler } from '@temporalio/workflow';

export type BareActivities = { first(): Promise<void>; second(): Promise<void> };

export const answer = defineUpdate('answer');

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
