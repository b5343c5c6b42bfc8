import { sql } from 'drizzle-orm';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { makeDevices as makeLoadDevices } from '../../bench/fleet.ts';
import { keyEncryptionKeyFile } from '../../bench/rig.ts';
import { openSigner } from '../../workers/signer.ts';
import { eventually } from '../support/eventually.ts';
import { makeRelease, product, runs } from '../support/rollouts.ts';
import { startAgents, type Agents } from './agents.ts';
import { startRig, type Rig } from './rig.ts';

/** As many as the whole story by hand: LONGHAUL_TEST_KILLS=20 LONGHAUL_TEST_DEVICES=500. */
const kills = Number(process.env['LONGHAUL_TEST_KILLS'] ?? 5);
const deviceCount = Number(process.env['LONGHAUL_TEST_DEVICES'] ?? 120);
const cap = Math.round(deviceCount / 8);
const withinMs = 120_000;

let rig: Rig;
let agents: Agents;
beforeAll(async () => {
  rig = await startRig();
  const { system } = rig;
  const authority = await openSigner(system.db, { keyEncryptionKeyFile: keyEncryptionKeyFile(system.folder) });
  const devices = await makeLoadDevices({ db: system.db, authority }, deviceCount);
  await system.db.execute(sql`update devices set attributes = '{"hardware": "rev-a"}'`);
  await runs(
    system.db,
    devices.map(({ deviceId }) => deviceId),
    '1.0.0',
  );
  const bad = new Set(devices.filter((_, index) => index % 10 === 0).map(({ name }) => name));
  agents = startAgents(system, devices, {
    product,
    workMs: 500,
    outcomeOf: (name) => (bad.has(name) ? 'FAILED' : 'SUCCEEDED'),
  });
  await eventually(() => agents.connected() === deviceCount, { withinMs });
}, 180_000);
afterAll(async () => {
  await agents?.[Symbol.asyncDispose]();
  await rig?.[Symbol.asyncDispose]();
}, 60_000);

test(
  'of a rollout whose worker, gateway and Temporal are killed again and again every verdict is right, none is given twice, and the cap holds',
  { timeout: 600_000 },
  async ({ annotate }) => {
    const { system, temporal } = rig;
    const { db } = system;
    const releaseId = await makeRelease(db, '2.0.0');
    const created = await system.ask('POST', '/v1/rollouts', {
      name: 'in spite of everything',
      release: releaseId,
      targets: { filter: 'attributes.hardware==rev-a' },
      waves: [{ percent: 20 }, {}],
      gate: { succeededPercent: 50, soakSeconds: 1 },
      pace: { inFlightMax: cap },
    });
    expect(created.status).toBe(202);
    // The API answers with the rollout.
    const { id } = created.body as { id: string };

    let most = 0;
    const measure = setInterval(
      () =>
        void inFlight(rig, id).then(
          (count) => (most = Math.max(most, count)),
          () => {},
        ),
      50,
    );
    const parts = [system.lifecycle, system.gateways[0], temporal, system.gateways[1]];
    const step = Math.floor((deviceCount * 0.8) / kills);
    for (let done = 0; done < kills; done += 1) {
      await eventually(async () => (await judged(rig, id)) >= done * step, { withinMs });
      const part = parts[done % parts.length];
      await part?.kill();
      await part?.start();
    }
    await annotate(`${kills} kills, the last with ${await judged(rig, id)} of ${deviceCount} judged`);
    await eventually(async () => (await stateOf(rig, id)) === 'FINISHED', { withinMs });
    clearInterval(measure);

    const bad = Math.ceil(deviceCount / 10);
    expect(await verdictsOf(rig, id)).toEqual({ FAILED: bad, SUCCEEDED: deviceCount - bad });
    expect(most).toBeGreaterThan(0);
    expect(most).toBeLessThanOrEqual(cap);
    const [told] = await db.execute<{ executions: number; ends: number }>(sql`
      select (select count(*)::int from executions) as executions,
        (select count(*)::int from events where kind in ('execution.succeeded', 'execution.failed')) as ends`);
    expect(told).toEqual({ executions: deviceCount, ends: deviceCount });
    expect(agents.begun).toHaveLength(deviceCount);
    expect(new Set(agents.begun).size).toBe(deviceCount);
  },
);

const inFlight = async ({ system }: Rig, id: string): Promise<number> => {
  const [row] = await system.db.execute<{ count: number }>(sql`
    select count(*)::int as count from rollout_targets where rollout_id = ${id} and state = 'IN_FLIGHT'`);
  return row?.count ?? 0;
};

const judged = async ({ system }: Rig, id: string): Promise<number> => {
  const [row] = await system.db.execute<{ count: number }>(sql`
    select count(*)::int as count from rollout_targets where rollout_id = ${id} and verdict is not null`);
  return row?.count ?? 0;
};

const stateOf = async ({ system }: Rig, id: string): Promise<string | undefined> => {
  const [row] = await system.db.execute<{ state: string }>(sql`select state from rollouts where id = ${id}`);
  return row?.state;
};

async function verdictsOf({ system }: Rig, id: string): Promise<Record<string, number>> {
  const rows = await system.db.execute<{ verdict: string; count: number }>(sql`
    select verdict, count(*)::int as count from rollout_targets where rollout_id = ${id} group by verdict`);
  return Object.fromEntries(rows.map(({ verdict, count }) => [verdict, count]));
}
