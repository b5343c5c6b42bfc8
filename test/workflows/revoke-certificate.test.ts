import { randomUUIDv7 } from 'node:crypto';
import { eq } from 'drizzle-orm';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { findRevocationList } from '../../db/revocation-lists.ts';
import { revocations } from '../../db/revocation-schema.ts';
import { audit, certificates, events, gateways, outbox } from '../../db/schema.ts';
import { localWire } from '../../gateway/wire.ts';
import { revokeCertificate, revokeCertificateId } from '../../workflows/revoke-certificate.ts';
import { makeApi } from '../support/api.ts';
import { makeDatabase, type TestDatabase } from '../support/database.ts';
import { createFleet, startTestGateway, type Fleet, type GatewayRig } from '../support/gateway.ts';
import { recordHistory } from '../support/histories.ts';
import { startLifecycle, type LifecycleRig } from '../support/lifecycle.ts';

let database: TestDatabase;
let fleet: Fleet;
let gateway: GatewayRig;
let lifecycle: LifecycleRig;
let api: Awaited<ReturnType<typeof makeApi>>;
beforeAll(async () => {
  database = await makeDatabase();
  fleet = await createFleet(database.db);
  const wire = localWire();
  gateway = await startTestGateway(fleet, { wire });
  api = await makeApi(database.db, { authority: fleet.authority, wire });
  lifecycle = await startLifecycle(fleet);
});
afterAll(async () => {
  await gateway[Symbol.asyncDispose]();
  await lifecycle[Symbol.asyncDispose]();
  await database[Symbol.asyncDispose]();
});

const ask = (certificateId: string, reason = 'keyCompromise') =>
  api.ask('POST', `/v1/certificates/${certificateId}/revoke`, { reason });
/** The lifecycle, started as the relay starts it. */
const start = (certificateId: string, proveWithinMs?: number) =>
  lifecycle.client.workflow.start(revokeCertificate, {
    workflowId: revokeCertificateId(certificateId),
    taskQueue: lifecycle.taskQueue,
    args: [{ certificateId, ...(proveWithinMs !== undefined && { proveWithinMs }) }],
  });
const auditOf = async (certificateId: string) =>
  database.db
    .select()
    .from(audit)
    .where(eq(audit.subject, `certificate/${certificateId}`))
    .orderBy(audit.id);

test('a certificate in use is denied, cut, listed and proven, and the audit has the times in that order', async () => {
  const device = await fleet.makeDevice();
  const raw = await gateway.dial(device);
  await raw.connack();
  expect((await ask(device.certificateId)).status).toBe(202);
  const workflow = await start(device.certificateId);
  expect(await workflow.result()).toBe('PROVEN');
  await recordHistory(workflow, 'revokeCertificate-proven');
  await raw.closed;
  const [revoked, proven] = await auditOf(device.certificateId);
  expect(revoked).toMatchObject({ action: 'certificate.revoked', data: { reason: 'keyCompromise' } });
  expect(revoked?.actor).toMatch(/^api-key\//);
  expect(proven).toMatchObject({
    action: 'certificate.revocation-proven',
    data: { reason: 'keyCompromise', sessionsClosed: 1, gateways: 1, unheard: [] },
  });
  const { askedAt, revokedAt, closedAt, listedAt, listNumber } = proven?.data ?? {};
  const times = [askedAt, revokedAt, closedAt, listedAt].map((time) => Date.parse(String(time)));
  expect(times).toEqual(times.toSorted((a, b) => a - b));
  expect((await findRevocationList(database.db, fleet.authority.id))?.number).toBe(listNumber);
  expect(await database.db.select().from(events).where(eq(events.deviceId, device.deviceId))).toContainEqual(
    expect.objectContaining({ kind: 'certificate.revoked' }),
  );
  expect(await (await gateway.dial(device)).connack()).toMatchObject({ reasonCode: 0x87 });
});

test('a gateway that lives and does not confirm is named when its time is over, and the list was published all the same', async () => {
  const id = randomUUIDv7();
  await database.db.insert(gateways).values({ id, address: 'nowhere:1' });
  const device = await fleet.makeDevice();
  await ask(device.certificateId);
  const workflow = await start(device.certificateId, 500);
  expect(await workflow.result()).toBe('UNCONFIRMED');
  await recordHistory(workflow, 'revokeCertificate-unconfirmed');
  await database.db.delete(gateways).where(eq(gateways.id, id));
  const entries = await auditOf(device.certificateId);
  expect(entries.at(-1)).toMatchObject({ action: 'certificate.revocation-unconfirmed', data: { unheard: [id] } });
  const [row] = await database.db.select().from(certificates).where(eq(certificates.id, device.certificateId));
  expect(row?.listNumber).not.toBeNull();
});

test('asked again, with another reason or at the same time, it is the same revocation', async () => {
  const device = await fleet.makeDevice();
  const answers = await Promise.all(Array.from({ length: 8 }, () => ask(device.certificateId)));
  answers.push(await ask(device.certificateId, 'superseded'));
  expect(new Set(answers.map(({ status, text }) => `${status} ${text}`)).size).toBe(1);
  expect(answers[0]?.body).toMatchObject({
    state: 'REVOKED',
    revocationReason: 'keyCompromise',
    lifecycle: { workflowId: `revoke-certificate/${device.certificateId}` },
  });
  const started = await database.db
    .select()
    .from(outbox)
    .where(eq(outbox.workflowId, revokeCertificateId(device.certificateId)));
  expect(started).toMatchObject([
    { kind: 'start', name: 'revokeCertificate', argument: { certificateId: device.certificateId } },
  ]);
  expect(await (await start(device.certificateId)).result()).toBe('PROVEN');
  // Another run, as after Temporal's store was lost, finds everything done.
  expect(await (await start(device.certificateId)).result()).toBe('PROVEN');
  expect((await auditOf(device.certificateId)).map(({ action }) => action)).toEqual([
    'certificate.revoked',
    'certificate.revocation-proven',
  ]);
});

test('a certificate that was revoked without being asked for keeps its reason, and is proven when it is', async () => {
  const device = await fleet.makeDevice({ state: 'REVOKED' });
  const isIts = eq(certificates.id, device.certificateId);
  await database.db.update(certificates).set({ revocationReason: 'superseded', revokedAt: new Date() }).where(isIts);
  expect((await ask(device.certificateId)).body).toMatchObject({ revocationReason: 'superseded' });
  expect(await (await start(device.certificateId)).result()).toBe('PROVEN');
  const [row] = await database.db.select().from(revocations).where(eq(revocations.certificateId, device.certificateId));
  expect(row).toMatchObject({ reason: 'superseded', finishedAt: expect.any(Date) });
});
