import { eq } from 'drizzle-orm';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { decommissions } from '../../db/revocation-schema.ts';
import { audit, certificates, devices, feed } from '../../db/schema.ts';
import { makeClaim } from '../clients/fleet.ts';
import { eventually } from '../support/eventually.ts';
import { enrolOnly } from './devices.ts';
import { connectAs } from './gateways.ts';
import { holdWorker } from './locks.ts';
import { startRig, type Rig } from './rig.ts';

const withinMs = 90_000;
let rig: Rig;
beforeAll(async () => void (rig = await startRig()), 120_000);
afterAll(() => rig?.[Symbol.asyncDispose]());

const lock = (what: string) => holdWorker(rig.postgres.url, what, { withinMs });

test(
  'a decommission ends rightly although worker, gateway and database are killed between its steps',
  { timeout: 300_000 },
  async () => {
    const { system } = rig;
    const { db, lifecycle } = system;
    const device = await enrolOnly(system.mqtt, await makeClaim(system));
    const { ended } = await connectAs(system, device, system.gateways[0]?.port ?? 0);
    await eventually(
      async () => (await db.select().from(devices).where(eq(devices.name, device.name)))[0]?.state === 'ACTIVE',
    );

    const listing = await lock('lock table revocation_lists in access exclusive mode');
    expect((await system.ask('POST', `/v1/devices/${device.name}/decommission`)).status).toBe(202);
    // Denied and cut by the API's word alone, whatever becomes of the rest.
    expect(await ended).toBe(0x87);
    const certificatesOf = () => db.select().from(certificates).where(eq(certificates.subject, device.name));
    await eventually(async () => (await certificatesOf()).every(({ state }) => state === 'REVOKED'), { withinMs });
    await listing.reached();
    const ending = await lock('lock table executions in access exclusive mode');
    await lifecycle.kill();
    await system.gateways[0]?.kill();
    await listing.release();
    await system.gateways[0]?.start();
    await lifecycle.start();

    await ending.reached();
    const erasing = await lock('lock table device_software in access exclusive mode');
    await lifecycle.kill();
    await ending.release();
    await lifecycle.start();

    await erasing.reached();
    await rig.postgres.kill();
    await erasing.release();
    await rig.postgres.start();

    await eventually(async () => (await db.select().from(decommissions))[0]?.finishedAt !== null, { withinMs });
    const [row] = await db.select().from(devices).where(eq(devices.name, device.name));
    expect(row).toMatchObject({ state: 'BLOCKED', attributes: {}, template: null });
    expect((await certificatesOf()).map(({ state, listNumber }) => [state, listNumber !== null])).toEqual([
      ['REVOKED', true],
    ]);
    const entries = await db
      .select()
      .from(audit)
      .where(eq(audit.subject, `device/${device.name}`));
    const actions = entries.map(({ action }) => action).toSorted();
    expect(actions).toEqual(['device.decommissioned', 'device.erased', 'device.registered']);
    expect(await db.select().from(feed).where(eq(feed.kind, 'certificate'))).toHaveLength(1);
  },
);
