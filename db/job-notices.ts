import { sql } from 'drizzle-orm';
import type { Db } from './client.ts';
import { pauseAfter } from './orders.ts';
import { executePrepared } from './prepared.ts';

/** That what a device has to do has changed since it was last told. */
export type JobNotice = {
  deviceId: string;
  /** Which change this is. */
  change: string;
  /** An execution has come or gone. */
  list: boolean;
  /** The first of them is another one. */
  head: boolean;
};

/**
 * Claims the due notices of these devices and moves their next attempt on in the same statement: of two triggers or two
 * gateways, one gets a notice. What a device was told before its newest connection is due again.
 */
export async function claimJobNotices(db: Db, deviceIds: string[]): Promise<JobNotice[]> {
  return executePrepared<JobNotice>(
    db,
    sql`
    with due as (
      select n.device_id from job_notices n
      where n.device_id = any (${sql.param(deviceIds)}::uuid[]) and (n.next_attempt_at <= now() or exists (
        select from sessions s where s.device_id = n.device_id and s.closed_at is null
          and s.connected_at > n.next_attempt_at - ${pauseAfter(sql`n.attempts - 1`)}))
      order by n.device_id for update of n skip locked
    )
    update job_notices n set attempts = n.attempts + 1, next_attempt_at = now() + ${pauseAfter(sql`n.attempts`)}
    from due where n.device_id = due.device_id
    returning n.device_id as "deviceId", n.change, n.list, n.head`,
  );
}

/** Ends notices that were acknowledged. Where something has changed again since, the device is told of that as well. */
export async function deleteJobNotices(db: Db, told: Pick<JobNotice, 'deviceId' | 'change'>[]): Promise<void> {
  await executePrepared(
    db,
    sql`
    with told as (
      select n.device_id from job_notices n
      join unnest(${sql.param(told.map(({ deviceId }) => deviceId))}::uuid[],
        ${sql.param(told.map(({ change }) => change))}::uuid[]) as t (device_id, change)
        on n.device_id = t.device_id and n.change = t.change
      order by n.device_id for update of n
    )
    delete from job_notices n using told where n.device_id = told.device_id`,
  );
}
