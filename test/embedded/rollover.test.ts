import { createPublicKey, randomBytes } from 'node:crypto';
import { and, eq, ne } from 'drizzle-orm';
import { afterAll, beforeAll, expect, inject, test } from 'vitest';
import { rollovers } from '../../db/authority-schema.ts';
import { findRotationPolicy, putRotationPolicy } from '../../db/rotation-policies.ts';
import { certificates } from '../../db/schema.ts';
import { createDevice } from '../../embedded/device.ts';
import { createRoot, type Authority } from '../../pki/authority.ts';
import { makeKeyPair } from '../../pki/keys.ts';
import { ensureTrustBundle } from '../../workers/authorities.ts';
import { rolloverAuthority, rolloverAuthorityId } from '../../workflows/rollover-authority.ts';
import { searchAttributes } from '../../workflows/search-attributes.ts';
import { openClient, runWorker } from '../gateway/temporal.ts';
import { makeApi } from '../support/api.ts';
import { certify, followSuccessors } from '../support/authorities.ts';
import { eventually } from '../support/eventually.ts';
import { startTestGateway } from '../support/gateway.ts';
import { softwareOf } from './releases.ts';
import { openWorkshop, type Workshop } from './updating.ts';

const rig = new AsyncDisposableStack();
let shop: Workshop;
let temporal: ReturnType<typeof openClient>;
let api: Awaited<ReturnType<typeof makeApi>>;
let signer: Authority;
beforeAll(async () => {
  temporal = rig.use(openClient(inject('temporal')));
  shop = rig.use(await openWorkshop(async () => ({ temporal, sweepEveryMs: 200 })));
  const { db, fleet, wire } = shop;
  signer = followSuccessors(fleet);
  rig.use(await runWorker(inject('temporal'), temporal.taskQueue, { db, authority: signer, wire }));
  await ensureTrustBundle(db);
  api = await makeApi(db, { authority: fleet.authority, wire });
  const policy = await findRotationPolicy(db, 'default');
  if (!policy) throw new Error('the default policy is there from the start');
  await putRotationPolicy(db, 'api-key/test', { ...policy, graceHours: 0 });
}, 60_000);
afterAll(() => rig.disposeAsync());

/** A root of its own with an authority that stands by, whose rollover has begun at a pace for tests. */
async function beginUnderNextRoot() {
  const root = await createRoot({ name: 'Longhaul root authority 2' });
  const { certificatePem } = root;
  expect((await api.ask('POST', '/v1/authorities', { kind: 'root', certificatePem })).status).toBe(201);
  const pending = (await api.ask('POST', '/v1/authorities', { kind: 'issuing' })).body;
  // Of an authority that is pending there is one.
  const { id, csrPem } = pending as typeof pending & { csrPem: string };
  const certified = { certificatePem: await certify(root, csrPem) };
  expect((await api.ask('PUT', `/v1/authorities/${id}/certificate`, certified)).status).toBe(200);
  const acknowledgeBy = new Date(Date.now() + 3_600_000);
  await shop.db.insert(rollovers).values({ authorityId: id, askedBy: 'api-key/test', acknowledgeBy });
  const workflow = await temporal.client.workflow.start(rolloverAuthority, {
    workflowId: rolloverAuthorityId(id),
    taskQueue: temporal.taskQueue,
    args: [{ authorityId: id, paceMs: 100 }],
  });
  const isWaiting = (waitingFor: string) =>
    eventually(async () => {
      const { typedSearchAttributes } = await workflow.describe();
      expect(typedSearchAttributes.get(searchAttributes.waitingFor)).toBe(waitingFor);
    });
  return { id, workflow, isWaiting };
}

/** A gateway whose own certificate is issued now. */
async function startNextGateway() {
  const { publicKeyPem, privateKeyPem } = makeKeyPair();
  const issued = await signer.issue({
    profile: 'server',
    subject: { server: ['localhost', '127.0.0.1'] },
    certificateId: randomBytes(32).toString('hex'),
    publicKey: createPublicKey(publicKeyPem).export({ type: 'spki', format: 'der' }),
    lifetimeMs: 86_400_000 * 90,
  });
  const authoritiesPem = [signer.rootPem, signer.certificatePem];
  const tls = { certificatePem: issued.chainPem, privateKeyPem, authoritiesPem };
  return rig.use(await startTestGateway(shop.fleet, { temporal, tls }));
}

const retireRoot = () => api.ask('POST', `/v1/authorities/${shop.fleet.rootId}/retire`);

test('devices follow their fleet from one root to the next, and until the last has followed the old one stays', async () => {
  const [quick, slow] = [await shop.makeDevice(), await shop.makeDevice()];
  await slow.stop();
  const { id: successor, workflow, isWaiting } = await beginUnderNextRoot();
  await isWaiting('1 devices to acknowledge its root');
  await eventually(() => expect(quick.said).toEqual(['SUCCEEDED']));
  expect(signer.id).toBe(shop.fleet.authority.id);
  expect(await retireRoot()).toMatchObject({ status: 409, body: { detail: expect.stringContaining('issues') } });

  slow.events.once('job', () => slow.goOffline());
  slow.start();
  await isWaiting('1 certificates of its predecessors to be replaced');
  await eventually(() => expect(slow.said).toEqual(['SUCCEEDED']));
  expect(await retireRoot()).toMatchObject({ status: 409, body: { detail: expect.stringMatching(/^1 certificates/) } });

  slow.goOnline();
  expect(await workflow.result()).toBe('REPLACED');
  for (const { id } of [quick, slow]) {
    const living = and(eq(certificates.deviceId, id), ne(certificates.state, 'REVOKED'));
    expect(await shop.db.select().from(certificates).where(living)).toMatchObject([{ authorityId: successor }]);
  }
  expect((await retireRoot()).status).toBe(200);

  const { listener } = await startNextGateway();
  await slow.stop();
  const elsewhere = rig.use(
    createDevice({
      folder: slow.folder,
      mqtt: { host: '127.0.0.1', port: listener.port, serverName: 'localhost', ca: shop.fleet.authority.rootPem },
      claim: { certificate: 'none', privateKey: 'none' },
      template: 'default',
      parameters: {},
      software: softwareOf(shop.key, shop.orderKey),
    }),
  );
  elsewhere.start();
  await eventually(() => elsewhere.connected());
}, 60_000);
