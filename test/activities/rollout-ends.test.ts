import { sql } from 'drizzle-orm';
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { countVerdicts, makeDevices, makeRelease, makeRollout, plainPlan, startRollouts } from '../support/rollouts.ts';

let rig: Awaited<ReturnType<typeof startRollouts>>;
beforeAll(async () => void (rig = await startRollouts()));
beforeEach(() => rig.reset());
afterAll(() => rig[Symbol.asyncDispose]());

const { timers } = plainPlan;
const lenient = { ...plainPlan.gate, succeededPercent: 0 };

describe('a timer', () => {
  test('ends an execution that was not started in time, and the wake comes by itself', async () => {
    const { id, reviewed, review } = await rig.begin(2, { timers: { ...timers, startWithinSeconds: 120 } });
    expect(reviewed.waitMs).toBeLessThanOrEqual(120_000);
    rig.ledger.advance(121_000);
    await review();
    expect(await countVerdicts(rig.db, id)).toEqual({ TIMED_OUT: 2 });
  });

  test('ends an execution that was started and took too long, or whose step did', async () => {
    const { id, review } = await rig.begin(2);
    const [whole = '', step = ''] = await rig.crowd.busy();
    await rig.crowd.start([whole], { dueInSeconds: 60 });
    await rig.crowd.start([step], { dueInSeconds: 600 });
    await rig.db.execute(sql`
      update executions set step_due_at = now() + interval '30 seconds' where device_id = ${step}`);
    const first = await review();
    expect(first.waitMs).toBeLessThanOrEqual(30_000);
    rig.ledger.advance(31_000);
    expect((await review()).waitMs).toBeLessThanOrEqual(30_000);
    expect(await countVerdicts(rig.db, id)).toEqual({ TIMED_OUT: 1, IN_FLIGHT: 1 });
    rig.ledger.advance(30_000);
    await review();
    expect(await countVerdicts(rig.db, id)).toEqual({ TIMED_OUT: 2 });
  });

  test('ends the whole rollout: those in the queue are taken back, the others may end', async () => {
    const { id, review } = await rig.begin(6, {
      pace: { inFlightMax: 2 },
      timers: { ...timers, rolloutSeconds: 600, startWithinSeconds: 3_600 },
    });
    const [started = ''] = await rig.crowd.busy();
    await rig.crowd.start([started]);
    rig.ledger.advance(600_000);
    expect(await review()).toMatchObject({ status: 'STOPPING' });
    expect(await countVerdicts(rig.db, id)).toEqual({ CANCELED: 5, IN_FLIGHT: 1 });
    await rig.crowd.succeed([started], '2.0.0');
    expect(await review()).toMatchObject({ status: 'STOPPED', waitMs: undefined });
    expect(await countVerdicts(rig.db, id)).toEqual({ CANCELED: 5, SUCCEEDED: 1 });
  });
});

describe('a retry', () => {
  test('comes after a pause that doubles, and the device counts once', async () => {
    const { id, review } = await rig.begin(1, {
      gate: lenient,
      retries: { max: 2, backoffSeconds: 60, kinds: ['FAILED'] },
      limits: [{ kind: 'FAILED', count: 2, judgedMin: 0, then: 'stop' }],
    });
    for (const pauseMs of [60_000, 120_000]) {
      await rig.crowd.end(await rig.crowd.busy(), 'FAILED');
      await review();
      expect(await rig.crowd.busy()).toEqual([]);
      rig.ledger.advance(pauseMs - 5_000);
      await review();
      expect(await rig.crowd.busy()).toEqual([]);
      rig.ledger.advance(5_000);
      await review();
      expect(await rig.crowd.busy()).toHaveLength(1);
    }
    await rig.crowd.end(await rig.crowd.busy(), 'FAILED');
    expect((await review()).status).toBe('FINISHED');
    expect(await countVerdicts(rig.db, id)).toEqual({ FAILED: 1 });
    const attempts = await rig.db.execute(sql`select max(attempt) as attempts from executions`);
    expect([...attempts]).toEqual([{ attempts: 3 }]);
  });

  test('is for the kinds that it was asked for', async () => {
    const { id, review } = await rig.begin(1, {
      gate: lenient,
      retries: { max: 2, backoffSeconds: 60, kinds: ['TIMED_OUT'] },
    });
    await rig.crowd.end(await rig.crowd.busy(), 'REJECTED');
    await review();
    expect(await countVerdicts(rig.db, id)).toEqual({ REJECTED: 1 });
  });
});

describe('a window', () => {
  const day = [1, 2, 3, 4, 5, 6, 7];
  const hourMs = 3_600_000;
  /** A window of an hour that begins so many hours from now in that zone. */
  const inHours = (hours: number, zone: string) => {
    const from = Temporal.Now.zonedDateTimeISO(zone).add({ hours }).toPlainTime();
    const text = (time: Temporal.PlainTime) => time.toString({ smallestUnit: 'minute' });
    return { days: day, from: text(from), to: text(from.add({ hours: 1 })) };
  };

  test('keeps everybody waiting until it opens, and wakes then', async () => {
    const { reviewed, review } = await rig.begin(3, {
      windows: { zone: 'Europe/Berlin', open: [inHours(2, 'Europe/Berlin')] },
    });
    expect(await rig.crowd.busy()).toEqual([]);
    expect(reviewed.waitMs).toBeGreaterThan(1.9 * hourMs);
    expect(reviewed.waitMs).toBeLessThanOrEqual(2 * hourMs);
    rig.ledger.advance(2 * hourMs);
    await review();
    expect(await rig.crowd.busy()).toHaveLength(3);
  });

  test('is the device’s own where its attribute names a zone; one that names nonsense has the default', async () => {
    const zones = { 'America/Los_Angeles': 2, 'Asia/Tokyo': 3, 'Mars/Olympus': 1, '+05:00': 1 };
    for (const [zone, count] of Object.entries(zones)) {
      const attributes = { hardware: 'rev-a', zone };
      await makeDevices(rig.db, count, { prefix: zone.replaceAll('/', '-'), attributes, version: '1.0.0' });
    }
    const windows = { zone: { attribute: 'zone', default: 'UTC' }, open: [inHours(0, 'Asia/Tokyo')] };
    await rig.begin(4, { windows, timers: { ...timers, startWithinSeconds: 172_800 } });
    expect(await rig.crowd.busy()).toHaveLength(3);
    rig.ledger.advance(9 * hourMs);
    await rig.ledger.review(await onlyRollout());
    expect(await rig.crowd.busy()).toHaveLength(3 + 4 + 2);
  });
});

describe('preconditions', () => {
  test('skip, with the reason, whoever does not fit, and leave them out of the gate’s sum', async () => {
    const { db } = rig;
    await makeDevices(db, 1, { prefix: 'other-hardware', attributes: { hardware: 'rev-z' }, version: '1.0.0' });
    await makeDevices(db, 1, { prefix: 'no-hardware', attributes: {}, version: '1.0.0' });
    await makeDevices(db, 1, { prefix: 'ancient', version: '0.1.0' });
    await makeDevices(db, 1, { prefix: 'ahead', version: '3.0.0' });
    await makeDevices(db, 1, { prefix: 'there', version: '2.0.0' });
    const [fits = ''] = await makeDevices(db, 1, { prefix: 'fits', version: '1.0.0' });
    await makeRelease(db, '3.0.0', { securityCounter: 9 });
    const releaseId = await makeRelease(db, '2.0.0', { allowedFrom: ['1.0.0', '3.0.0'], securityCounter: 5 });
    const id = await makeRollout(db, { releaseId });
    await rig.ledger.enlist(id);
    await rig.ledger.review(id);
    expect(await rig.crowd.busy()).toEqual([fits]);
    const rows = await db.execute<{ name: string; reason: string }>(sql`
      select d.name, t.reason from rollout_targets t join devices d on d.id = t.device_id
      where t.verdict = 'SKIPPED' order by d.name`);
    expect(rows.map(({ name, reason }) => `${name}: ${reason}`)).toEqual([
      'ahead-00000: its security counter is 9 already',
      'ancient-00000: the manifest does not allow it from 0.1.0',
      "no-hardware-00000: its hardware (not known) is none of the manifest's",
      "other-hardware-00000: its hardware rev-z is none of the manifest's",
      'there-00000: it runs 2.0.0 already',
    ]);
    await rig.crowd.succeed([fits], '2.0.0');
    expect((await rig.ledger.review(id)).status).toBe('FINISHED');
  });
});

describe('undo', () => {
  test('goes newest wave first, each device to its own release, under the same cap', async () => {
    const { db, crowd, ledger } = rig;
    const old = await makeDevices(db, 4, { prefix: 'old', version: '0.9.0' });
    await makeRelease(db, '0.9.0');
    const { id, devices, review } = await rig.begin(4, {
      waves: [{ filter: 'name==old-*' }, {}],
      pace: { inFlightMax: 4 },
    });
    await crowd.succeed(await crowd.busy(), '2.0.0');
    await review();
    await crowd.succeed((await crowd.busy()).slice(0, 3), '2.0.0');
    await db.execute(sql`update rollouts set state = 'UNDOING', reason = 'operator' where id = ${id}`);
    const order: number[] = [];
    for (let status = (await review()).status; status !== 'UNDONE'; status = (await review()).status) {
      const busy = await crowd.busy();
      expect(busy.length).toBeLessThanOrEqual(4);
      order.push(...(await crowd.busyWaves()));
      const next = busy.slice(0, 1);
      await crowd.succeed(next, old.includes(next[0] ?? '') ? '0.9.0' : '1.0.0');
    }
    const firstOfOld = order.indexOf(1);
    expect(order.slice(0, firstOfOld).every((wave) => wave === 2)).toBe(true);
    expect(await countVerdicts(db, id)).toEqual({ UNDONE: 7, CANCELED: 1 });
    const documents = await db.execute<{ version: string; prefix: string; count: number }>(sql`
      select j.document::jsonb ->> 'version' as version, split_part(d.name, '-', 1) as prefix, count(*)::int as count
      from executions e join jobs j on j.id = e.job_id join devices d on d.id = e.device_id
      where j.document::jsonb ? 'version' group by 1, 2 order by 1`);
    expect([...documents]).toEqual([
      { version: '0.9.0', prefix: 'old', count: 4 },
      { version: '1.0.0', prefix: 'device', count: 3 },
    ]);
    expect(ledger.told).toEqual(expect.arrayContaining(devices.slice(0, 1)));
  });

  test('cannot be done for a device of which nobody knows what it ran, or whose old release is revoked or too old', async () => {
    const { db, crowd } = rig;
    const unknown = await makeDevices(db, 1, { prefix: 'unknown' });
    const revoked = await makeDevices(db, 1, { prefix: 'revoked', version: '0.5.0' });
    await makeRelease(db, '0.5.0', { revokedAt: new Date() });
    await makeDevices(db, 1, { prefix: 'below', version: '0.8.0' });
    await makeRelease(db, '0.8.0', { securityCounter: 0 });
    const { id, review } = await rig.begin(1);
    await crowd.succeed(await crowd.busy(), '2.0.0');
    await db.execute(sql`update rollouts set state = 'UNDOING' where id = ${id}`);
    await review();
    expect(await crowd.busy()).toHaveLength(1);
    const reasons = await db.execute<{ name: string; reason: string }>(sql`
      select d.name, t.reason from rollout_targets t join devices d on d.id = t.device_id
      where t.undo_verdict = 'CANNOT_UNDO' order by d.name`);
    expect(reasons.map(({ name, reason }) => `${name}: ${reason}`)).toEqual([
      'below-00000: it cannot go back to 0.8.0: its security counter 0 is below 1',
      'revoked-00000: it cannot go back to 0.5.0: there is no such release, or it was revoked',
      'unknown-00000: nobody knows what it ran before',
    ]);
    expect([...unknown, ...revoked]).toHaveLength(2);
  });
});

async function onlyRollout(): Promise<string> {
  const [row] = await rig.db.execute<{ id: string }>(sql`select id from rollouts`);
  return row?.id ?? '';
}
