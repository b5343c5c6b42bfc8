import { eq } from 'drizzle-orm';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { claims } from '../../db/enrolment-schema.ts';
import { certificates, devices } from '../../db/schema.ts';
import { makeDatabase, type TestDatabase } from '../support/database.ts';
import { eventually } from '../support/eventually.ts';
import { byManufacturer, makeFactoryDevice, makeRoot, register } from '../support/manufacturers.ts';
import { openRaw } from '../support/raw-mqtt.ts';
import { startSystem, type System } from '../support/system.ts';
import { holdWorker } from './locks.ts';

let database: TestDatabase;
let system: System;
beforeAll(async () => {
  database = await makeDatabase();
  system = await startSystem({ postgres: database, env: { GATEWAY_SWEEP_SECONDS: '1' } });
}, 120_000);
afterAll(async () => {
  await system?.[Symbol.asyncDispose]();
  await database?.[Symbol.asyncDispose]();
});

test(
  'a gateway and a worker that are killed between first connection and row shut nobody out and make nobody twice',
  { timeout: 120_000 },
  async () => {
    const { ask, db, lifecycle, mqtt, gateways } = system;
    const root = makeRoot();
    await ask('POST', '/v1/templates', { name: 'acme', definition: byManufacturer });
    expect((await register(ask, root, 'acme')).status).toBe(201);
    const device = makeFactoryDevice(root);
    const connect = async () => {
      const tls = { ca: mqtt.ca, cert: device.certificate, key: device.privateKey };
      const client = await openRaw({ host: mqtt.host, port: mqtt.port, servername: mqtt.serverName, ...tls });
      const answer = await client.connack();
      client.socket.destroy();
      return answer?.reasonCode;
    };

    // The slot of the claim is the last that the worker writes.
    const slot = await holdWorker(database.url, 'lock table claims in share mode');
    const asking = eventually(async () => expect(await connect()).toBe(0), { withinMs: 90_000 });
    await slot.reached();
    await gateways[0]?.kill();
    await lifecycle.kill();
    await slot.release();
    expect(await db.$count(devices)).toBe(0);
    await Promise.all([lifecycle.start(), gateways[0]?.start()]);
    await asking;

    const [row, ...more] = await db.select().from(devices);
    expect(more).toEqual([]);
    expect(row).toMatchObject({ name: `Acme-${device.serial}`, state: 'ACTIVE' });
    expect(
      await db
        .select()
        .from(certificates)
        .where(eq(certificates.deviceId, row?.id ?? '')),
    ).toMatchObject([{ state: 'ACTIVE', pem: device.pem }]);
    expect(await db.select().from(claims)).toMatchObject([{ kind: 'manufacturer', uses: 1 }]);
  },
);
