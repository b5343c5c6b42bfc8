import { eq, like, sql } from 'drizzle-orm';
import type { MqttClient } from 'mqtt';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { rollovers } from '../../db/authority-schema.ts';
import { findRotationPolicy, putRotationPolicy } from '../../db/rotation-policies.ts';
import { rotations } from '../../db/rotation-schema.ts';
import { audit, certificates, events } from '../../db/schema.ts';
import { findTrustBundle } from '../../db/trust-bundles.ts';
import { createRoot } from '../../pki/authority.ts';
import { makeCsr, makeKeyPair } from '../../pki/keys.ts';
import { ensureTrustBundle } from '../../workers/authorities.ts';
import { rolloverAuthority, rolloverAuthorityId } from '../../workflows/rollover-authority.ts';
import { searchAttributes } from '../../workflows/search-attributes.ts';
import { openRig, type Rig } from '../doors/rig.ts';
import { makeApi } from '../support/api.ts';
import { certify, followSuccessors } from '../support/authorities.ts';
import { eventually } from '../support/eventually.ts';
import { recordHistory } from '../support/histories.ts';

let rig: Rig;
let api: Awaited<ReturnType<typeof makeApi>>;
beforeAll(async () => {
  rig = await openRig({}, { signerOf: followSuccessors, sweepEveryMs: 200 });
  await ensureTrustBundle(rig.db);
  api = await makeApi(rig.db, { authority: rig.fleet.authority });
  const policy = await findRotationPolicy(rig.db, 'default');
  if (!policy) throw new Error('the default policy is there from the start');
  await putRotationPolicy(rig.db, 'api-key/test', { ...policy, graceHours: 0 });
}, 120_000);
afterAll(() => rig[Symbol.asyncDispose]());

async function makeSuccessor(root: { certificatePem: string; privateKeyPem: string }): Promise<string> {
  const { id, csrPem } = (await api.ask('POST', '/v1/authorities', { kind: 'issuing' })).body as unknown as {
    id: string;
    csrPem: string;
  };
  const certificatePem = await certify(root, csrPem);
  expect((await api.ask('PUT', `/v1/authorities/${id}/certificate`, { certificatePem })).status).toBe(200);
  return id;
}

/** As POST …/activate begins it, at a pace for tests. */
async function begin(authorityId: string) {
  await rig.db.insert(rollovers).values({
    authorityId,
    askedBy: 'api-key/test',
    acknowledgeBy: new Date(Date.now() + 3_600_000),
  });
  return rig.temporal.client.workflow.start(rolloverAuthority, {
    workflowId: rolloverAuthorityId(authorityId),
    taskQueue: rig.temporal.taskQueue,
    args: [{ authorityId, paceMs: 100 }],
  });
}

async function ask(client: MqttClient, topic: string, body: object): Promise<Record<string, unknown>> {
  await client.subscribeAsync([`${topic}/accepted`, `${topic}/rejected`], { qos: 1 });
  const { promise, resolve } = Promise.withResolvers<Record<string, unknown>>();
  client.on('message', (answered, payload) => {
    if (answered.startsWith(`${topic}/`)) resolve(JSON.parse(String(payload)) as Record<string, unknown>);
  });
  await client.publishAsync(topic, JSON.stringify(body), { qos: 1 });
  return promise;
}

const stateOf = async (id: string) => {
  const { items } = (await api.ask('GET', '/v1/authorities')).body;
  return items.find((item) => item.id === id)?.['state'];
};
const isWaiting = (workflow: Awaited<ReturnType<typeof begin>>, waitingFor: string) =>
  eventually(async () => {
    const { typedSearchAttributes } = await workflow.describe();
    expect(typedSearchAttributes.get(searchAttributes.waitingFor)).toBe(waitingFor);
  });

test('a fleet moves to a new root: told, acknowledged, switched, rotated, and nothing is shown before it is known', async () => {
  const { db, fleet, gateway } = rig;
  const [quick, slow] = [await fleet.makeDevice(), await fleet.makeDevice()];
  const root = await createRoot({ name: 'Longhaul root authority 2' });
  expect((await api.ask('POST', '/v1/authorities', { kind: 'root', certificatePem: root.certificatePem })).status).toBe(
    201,
  );
  const successor = await makeSuccessor(root);
  const workflow = await begin(successor);
  await isWaiting(workflow, '2 devices to acknowledge its root');

  const client = await gateway.connect(quick, { clientId: quick.name });
  const bundle = await findTrustBundle(db);
  const jobs = `$aws/things/${quick.name}/jobs`;
  expect(await ask(client, `${jobs}/start-next`, {})).toMatchObject({
    execution: {
      jobId: bundle?.jobId,
      jobDocument: {
        operation: 'update-trust-bundle',
        version: 2,
        sha256: Buffer.from(bundle?.sha256 ?? []).toString('hex'),
        certificatesPem: fleet.authority.rootPem + root.certificatePem,
      },
    },
  });
  await ask(client, `${jobs}/${bundle?.jobId}/update`, { status: 'FAILED' });
  // Told again, a day later.
  await db.execute(sql`update executions set ended_at = ended_at - interval '1 day' where ended_at is not null`);
  await eventually(async () =>
    expect(await ask(client, `${jobs}/start-next`, {})).toMatchObject({ execution: { executionNumber: 2 } }),
  );
  await ask(client, `${jobs}/${bundle?.jobId}/update`, { status: 'SUCCEEDED' });
  await isWaiting(workflow, '1 devices to acknowledge its root');
  expect(await stateOf(successor)).toBe('STANDBY');
  expect((await api.ask('GET', '/v1/trust-bundle')).body).toMatchObject({ version: 2, devices: 2, acknowledged: 1 });

  await db.update(rollovers).set({ acknowledgeBy: new Date() });
  await isWaiting(workflow, '2 certificates of its predecessors to be replaced');
  expect([await stateOf(successor), await stateOf(fleet.authority.id)]).toEqual(['ACTIVE', 'RETIRED']);

  await eventually(async () => {
    const [row] = await db.select().from(rotations).where(eq(rotations.deviceId, quick.deviceId));
    expect(row).toMatchObject({ reason: 'authority', state: 'ORDERED' });
  });
  const pair = makeKeyPair();
  const csr = { certificateSigningRequest: makeCsr(pair) };
  // The gateway answers with these two, whoever asks.
  const issued = (await ask(client, '$aws/certificates/create-from-csr/json', csr)) as {
    certificateId: string;
    certificatePem: string;
  };
  const [row] = await db.select().from(certificates).where(eq(certificates.id, issued.certificateId));
  expect(row?.authorityId).toBe(successor);
  await eventually(async () => {
    await gateway.connect({ ...issued, certificate: issued.certificatePem, privateKey: pair.privateKeyPem });
  });
  await isWaiting(workflow, '1 certificates of its predecessors to be replaced');
  await db.update(certificates).set({ state: 'REVOKED' }).where(eq(certificates.id, slow.certificateId));
  expect(await workflow.result()).toBe('REPLACED');
  await recordHistory(workflow, 'rolloverAuthority-replaced');
  expect((await api.ask('POST', `/v1/authorities/${fleet.rootId}/retire`)).status).toBe(200);
  const told = await db
    .select()
    .from(audit)
    .where(eq(audit.subject, `authority/${successor}`))
    .orderBy(audit.id);
  expect(told.map(({ action, data }) => [action, data['unacknowledged'] ?? data['outcome']])).toEqual([
    ['authority.requested', undefined],
    ['authority.certified', undefined],
    ['authority.activated', 1],
    ['authority.rollover-finished', 'REPLACED'],
  ]);

  const happened = await db.select().from(events).where(like(events.kind, 'authority.%')).orderBy(events.id);
  expect(happened.map(({ kind, subject }) => `${kind} ${subject}`).toSorted()).toEqual(
    [
      `authority.activated authority/${successor}`,
      `authority.retired authority/${fleet.authority.id}`,
      `authority.retired authority/${fleet.rootId}`,
    ].toSorted(),
  );

  // Under a root that every device knows, nobody is waited for.
  await db.execute(sql`update executions set status = 'SUCCEEDED', ended_at = now()`);
  const next = await makeSuccessor(root);
  await eventually(async () => (await api.ask('GET', '/v1/trust-bundle')).body.version === 3);
  await begin(next);
  await eventually(async () => (await stateOf(next)) === 'ACTIVE');
}, 60_000);

test('one that is retired before it could take over ends its lifecycle, and the others go on', async () => {
  const root = await createRoot({ name: 'Longhaul root authority 3' });
  await rig.fleet.makeDevice();
  await api.ask('POST', '/v1/authorities', { kind: 'root', certificatePem: root.certificatePem });
  const successor = await makeSuccessor(root);
  const workflow = await begin(successor);
  await eventually(async () => (await workflow.describe()).historyLength > 5);
  expect((await api.ask('POST', `/v1/authorities/${successor}/retire`)).status).toBe(200);
  expect(await workflow.result()).toBe('ENDED');
});
