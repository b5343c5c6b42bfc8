import type { ActivityOptions, LocalActivityOptions } from '@temporalio/common';

const second = 1_000;
const minute = 60 * second;
const hour = 60 * minute;

/*
 * Most activities are a few statements on Postgres and, at most, one signature. They run as local activities: a third of
 * the latency of scheduled ones, and one action instead of two.
 */

/** While a device waits for the answer: tried again quickly, given up before its client's patience (10 s) ends. */
export const whileTheDeviceWaits: LocalActivityOptions = {
  startToCloseTimeout: 5 * second,
  scheduleToCloseTimeout: 9 * second,
  retry: { initialInterval: 50, backoffCoefficient: 2, maximumInterval: second },
};

/**
 * A template's hook has 5 s in all, and is asked once: who says nothing has said no. A second look is for a worker that
 * died with the answer.
 */
export const whileAHookDecides: LocalActivityOptions = {
  startToCloseTimeout: 6 * second,
  scheduleToCloseTimeout: 7 * second,
  retry: { maximumAttempts: 1 },
};

/** Nobody waits, and the step must happen all the same, however long the database is away. */
export const untilItIsDone: LocalActivityOptions = {
  startToCloseTimeout: 30 * second,
  localRetryThreshold: 10 * second,
  retry: { initialInterval: 100, backoffCoefficient: 2, maximumInterval: minute },
};

/** A statement over the whole fleet: not in a workflow task's own time. */
export const howeverLongItTakes: ActivityOptions = {
  startToCloseTimeout: 10 * minute,
  retry: { initialInterval: second, backoffCoefficient: 2, maximumInterval: minute },
};

/** Page after page of a file: whoever does not say for ten seconds that it reads on is taken for dead. */
export const whileAFileIsRead: ActivityOptions = {
  startToCloseTimeout: hour,
  heartbeatTimeout: 10 * second,
  retry: { initialInterval: second, backoffCoefficient: 2, maximumInterval: minute },
};

/** How long a certificate may wait for its first connection, counted from its issue. AWS gives the same hour. */
export const activateWithinMs = hour;
