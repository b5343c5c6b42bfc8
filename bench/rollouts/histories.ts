import type { Client } from '@temporalio/client';
import { runRolloutId } from '../../workflows/run-rollout.ts';

type History = Awaited<ReturnType<ReturnType<Client['workflow']['getHandle']>['fetchHistory']>>;
type Event = NonNullable<History['events']>[number];

/** The events of a workflow, with those of the runs that the last one continues. */
export async function eventsOf(client: Client, workflowId: string): Promise<Event[]> {
  const events: Event[] = [];
  let runId: string | undefined;
  do {
    const own: Event[] = (await client.workflow.getHandle(workflowId, runId).fetchHistory()).events ?? [];
    events.unshift(...own);
    runId = own[0]?.workflowExecutionStartedEventAttributes?.continuedExecutionRunId ?? undefined;
  } while (runId);
  return events;
}

export const eventsOfRollout = (client: Client, id: string): Promise<Event[]> => eventsOf(client, runRolloutId(id));

/**
 * Billable actions as Temporal Cloud counts them: starts, signals, timers, scheduled activities, updates, upserts of
 * search attributes, and local activities, of which those of one workflow task are one.
 */
export function countActions(events: Event[]): number {
  const single = events.filter(
    (event) =>
      event.workflowExecutionStartedEventAttributes ??
      event.workflowExecutionSignaledEventAttributes ??
      event.timerStartedEventAttributes ??
      event.activityTaskScheduledEventAttributes ??
      event.workflowExecutionUpdateAcceptedEventAttributes ??
      event.upsertWorkflowSearchAttributesEventAttributes,
  );
  const local = events.flatMap(({ markerRecordedEventAttributes: marker }) => {
    return marker?.markerName === 'core_local_activity' ? [String(marker.workflowTaskCompletedEventId)] : [];
  });
  return single.length + new Set(local).size;
}
