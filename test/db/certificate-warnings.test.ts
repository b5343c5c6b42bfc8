import { eq, inArray } from 'drizzle-orm';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { warnOfCertificates } from '../../db/certificate-warnings.ts';
import { audit, certificates, events } from '../../db/schema.ts';
import { makeDatabase, type TestDatabase } from '../support/database.ts';
import { createFleet, type Fleet } from '../support/gateway.ts';

let database: TestDatabase;
let fleet: Fleet;
beforeAll(async () => {
  database = await makeDatabase();
  fleet = await createFleet(database.db);
});
afterAll(() => database[Symbol.asyncDispose]());

const hourMs = 3_600_000;
const born = Date.parse('2027-01-01T00:00:00Z');
/** A life of a hundred days, from `born` on. */
const dayOf = (n: number) => new Date(born + n * 24 * hourMs);
const lives = { notBefore: dayOf(0), notAfter: dayOf(100) };

async function makeDevice(part: { deviceState?: 'BLOCKED' } = {}) {
  const device = await fleet.makeDevice(part);
  await set(device.certificateId, lives);
  return device;
}

const set = (id: string, change: Partial<typeof certificates.$inferInsert>) =>
  database.db.update(certificates).set(change).where(eq(certificates.id, id));
const warnedOf = async (at: Date) => (await warnOfCertificates(database.db, at)).map(({ device }) => device).toSorted();

test('a certificate that is not replaced is told of once, at 80 % of its life, and not after its end', async () => {
  const { db } = database;
  const late = await makeDevice();
  const ended = await makeDevice();
  await set(ended.certificateId, { notAfter: dayOf(79) });
  const [blocked, revoked, replaced] = [
    await makeDevice({ deviceState: 'BLOCKED' }),
    await makeDevice(),
    await makeDevice(),
  ];
  await set(revoked.certificateId, { state: 'REVOKED' });
  const next = await fleet.makeDevice();
  await set(next.certificateId, { notBefore: dayOf(70), notAfter: dayOf(300), deviceId: replaced.deviceId });

  expect(await warnedOf(new Date(dayOf(80).getTime() - 1_000))).not.toContain(late.name);
  const told = await Promise.all([dayOf(80), dayOf(80), dayOf(80)].map(warnedOf));
  expect(told.flat()).toEqual([late.name]);
  for (let day = 80; day <= 101; day += 1) expect(await warnedOf(dayOf(day))).toEqual([]);

  const subject = `certificate/${late.certificateId}`;
  const entries = await db.select().from(audit).where(eq(audit.subject, subject));
  expect(entries).toMatchObject([{ action: 'certificate.ending', data: { device: late.name } }]);
  const heard = await db.select().from(events).where(eq(events.subject, subject));
  expect(heard).toMatchObject([{ kind: 'certificate.ending', deviceId: late.deviceId }]);
  const spared = [blocked, revoked, replaced].map(({ certificateId }) => `certificate/${certificateId}`);
  expect(await db.$count(audit, inArray(audit.subject, spared))).toBe(0);
});

test('it ends with the certificate: its successor is told of in its own time, and one without any is not told of again', async () => {
  const device = await makeDevice();
  expect(await warnedOf(dayOf(81))).toEqual([device.name]);
  const next = await fleet.makeDevice();
  await set(next.certificateId, { notBefore: dayOf(81), notAfter: dayOf(181), deviceId: device.deviceId });
  await set(device.certificateId, { state: 'REVOKED' });
  expect(await warnedOf(dayOf(120))).toEqual([]);
  expect(await warnedOf(dayOf(161.5))).toEqual([device.name]);
  expect(await warnedOf(dayOf(181))).toEqual([]);
});
