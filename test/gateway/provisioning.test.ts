import { createPrivateKey, X509Certificate } from 'node:crypto';
import { eq } from 'drizzle-orm';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { claims, enrolments, ownershipTokens, templates } from '../../db/enrolment-schema.ts';
import { audit, certificates, devices } from '../../db/schema.ts';
import { createProvisioning } from '../../gateway/provisioning.ts';
import { createRefusalLog } from '../../gateway/refusals.ts';
import { createRequests } from '../../gateway/requests.ts';
import { makeCsr, makeKeyPair } from '../../pki/keys.ts';
import { makeDatabase, type TestDatabase } from '../support/database.ts';
import { createFleet, type Fleet } from '../support/gateway.ts';
import { sharedTemporal } from '../support/temporal.ts';
import { claimSession, createEar, noEffects, quiet } from './ear.ts';
import { openClient, runWorker } from './temporal.ts';

let database: TestDatabase;
let fleet: Fleet;
let temporal: ReturnType<typeof openClient>;
let worker: AsyncDisposable;
beforeAll(async () => {
  database = await makeDatabase();
  fleet = await createFleet(database.db);
  temporal = openClient(sharedTemporal());
  const deps = { db: database.db, authority: fleet.authority, wire: { tell() {} } };
  worker = await runWorker(sharedTemporal(), temporal.taskQueue, deps);
}, 120_000);
afterAll(async () => {
  await worker[Symbol.asyncDispose]();
  await temporal[Symbol.asyncDispose]();
  await database[Symbol.asyncDispose]();
});

let lines = 0;
/** A claim line with a template of its own, and a connection that holds the claim. */
async function makeLine(options: { usesMax?: number; serverMadeKeys?: boolean; connected?: typeof temporal } = {}) {
  const template = `line-${(lines += 1)}`;
  const claim = await fleet.makeClaim({ template, usesMax: options.usesMax ?? 100 });
  const definition = {
    namePattern: '${model}-${serial}',
    parameters: ['model', 'serial'],
    attributes: {},
    lifetimeDays: 365,
    configuration: { broker: 'b.${model}' },
    serverMadeKeys: options.serverMadeKeys ?? false,
  };
  await database.db.update(templates).set({ definition }).where(eq(templates.name, template));
  const ear = createEar();
  const provisioning = createProvisioning({
    db: database.db,
    temporal: options.connected ?? temporal,
    log: quiet,
    answerWithinMs: 6_000,
  });
  const refusals = createRefusalLog({ db: database.db, log: quiet, suppressed: () => {} });
  const { dispatch } = createRequests({ ...noEffects, provisioning, listener: ear, refusals });
  const ask = async (topic: string, body: object, session = claimSession({ ...claim })) => {
    const before = ear.answers.length;
    await dispatch(session, { topic, payload: Buffer.from(JSON.stringify(body)), qos: 1 });
    expect(ear.answers.slice(before).map((answer) => answer.session)).toContain(session);
    const answer = ear.answers.findLast((candidate) => candidate.session === session);
    return { accepted: answer?.topic.endsWith('/accepted') ?? false, body: answer?.body ?? {} };
  };
  const enrol = (csr: string, session?: ReturnType<typeof claimSession>) =>
    ask('$aws/certificates/create-from-csr/json', { certificateSigningRequest: csr }, session);
  const provision = (token: unknown, parameters: object, session?: ReturnType<typeof claimSession>, name = template) =>
    ask(
      `$aws/provisioning-templates/${name}/provision/json`,
      { certificateOwnershipToken: token, parameters },
      session,
    );
  return { claim, template, ask, enrol, provision };
}

let serials = 0;
const fresh = () => ({ model: 'pump', serial: `${Date.now()}-${(serials += 1)}` });
const csrOf = () => makeCsr(makeKeyPair());

describe('create-from-csr and provision', () => {
  test('give the device its chain, its name and its configuration, and only the key of the request is taken', async () => {
    const { enrol, provision, claim } = await makeLine();
    const pair = makeKeyPair();
    const issued = await enrol(makeCsr(pair));
    expect(issued.accepted).toBe(true);
    const { certificateId, certificatePem, certificateOwnershipToken } = issued.body as Record<string, string>;
    expect(Object.keys(issued.body).toSorted()).toEqual([
      'certificateId',
      'certificateOwnershipToken',
      'certificatePem',
    ]);
    expect(String(certificatePem).match(/BEGIN CERTIFICATE/g)).toHaveLength(2);
    const leaf = new X509Certificate(certificatePem ?? '');
    expect(leaf.publicKey.export({ type: 'spki', format: 'pem' })).toBe(pair.publicKeyPem);
    const [row] = await database.db
      .select()
      .from(certificates)
      .where(eq(certificates.id, certificateId ?? ''));
    expect(row).toMatchObject({ state: 'PENDING_ACTIVATION', deviceId: null });

    const parameters = fresh();
    const name = `pump-${parameters.serial}`;
    const registered = await provision(certificateOwnershipToken, parameters);
    expect(registered).toEqual({
      accepted: true,
      body: { thingName: name, deviceConfiguration: { broker: 'b.pump' } },
    });
    const [device] = await database.db.select().from(devices).where(eq(devices.name, name));
    expect(device).toBeDefined();
    const [kept] = await database.db.select().from(ownershipTokens);
    expect(JSON.stringify(kept)).not.toContain(certificateOwnershipToken);
    const [used] = await database.db.select().from(claims).where(eq(claims.id, claim.claimId));
    expect(used?.uses).toBe(1);
  });

  test('fifty times at once for one key make one certificate and one device', async () => {
    const { enrol, provision, claim } = await makeLine();
    const csr = csrOf();
    const answers = await Promise.all(
      Array.from({ length: 50 }, (_, index) => enrol(csr, claimSession({ ...claim }, `connection-${index}`))),
    );
    expect(new Set(answers.map(({ body }) => body['certificateId'])).size).toBe(1);
    expect(new Set(answers.map(({ body }) => body['certificateOwnershipToken'])).size).toBe(50);
    const parameters = fresh();
    const registered = await Promise.all(
      answers.map(({ body }, index) =>
        provision(body['certificateOwnershipToken'], parameters, claimSession({ ...claim }, `connection-${index}`)),
      ),
    );
    expect(new Set(registered.map(({ body }) => body['thingName']))).toEqual(new Set([`pump-${parameters.serial}`]));
    expect(await database.db.select().from(enrolments).where(eq(enrolments.claimId, claim.claimId))).toHaveLength(1);
    const [used] = await database.db.select().from(claims).where(eq(claims.id, claim.claimId));
    expect(used?.uses).toBe(1);
  });

  test('asked again give the first answer, and with other parameters a refusal', async () => {
    const { enrol, provision } = await makeLine();
    const { body } = await enrol(csrOf());
    const parameters = fresh();
    const first = await provision(body['certificateOwnershipToken'], parameters);
    expect(await provision(body['certificateOwnershipToken'], parameters)).toEqual(first);
    const second = await provision(body['certificateOwnershipToken'], fresh());
    expect(second).toMatchObject({ accepted: false, body: { statusCode: 409, errorCode: 'AlreadyRegistered' } });
  });

  test('are answered from the rows when the lifecycle is over', async () => {
    const { enrol, provision } = await makeLine();
    const csr = csrOf();
    const { body } = await enrol(csr);
    const parameters = fresh();
    const first = await provision(body['certificateOwnershipToken'], parameters);
    const [row] = await database.db
      .select()
      .from(enrolments)
      .where(eq(enrolments.certificateId, String(body['certificateId'])));
    await temporal.client.workflow.getHandle(`provision-device/${row?.key}`).terminate();
    expect(await provision(body['certificateOwnershipToken'], parameters)).toEqual(first);
    expect((await enrol(csr)).body['certificateId']).toBe(body['certificateId']);
  });
});

describe('a refusal', () => {
  test('meets a token that is made up, changed by one character, over, or of another claim', async () => {
    const line = await makeLine();
    const other = await makeLine();
    const { body } = await line.enrol(csrOf());
    const token = String(body['certificateOwnershipToken']);
    const changed = (token.startsWith('A') ? 'B' : 'A') + token.slice(1);
    for (const bad of ['', 'x', changed, `${token} `, token.toUpperCase()]) {
      const answer = await line.provision(bad, fresh());
      expect(answer.body).toMatchObject({ statusCode: 400, errorCode: 'InvalidCertificateOwnershipToken' });
    }
    expect((await other.provision(token, fresh())).body).toMatchObject({
      errorCode: 'InvalidCertificateOwnershipToken',
    });
    const certificateId = String(body['certificateId']);
    const [enrolment] = await database.db.select().from(enrolments).where(eq(enrolments.certificateId, certificateId));
    const past = { expiresAt: new Date(Date.now() - 1_000) };
    await database.db
      .update(ownershipTokens)
      .set(past)
      .where(eq(ownershipTokens.enrolmentId, enrolment?.id ?? ''));
    expect((await line.provision(token, fresh())).body).toMatchObject({
      errorCode: 'InvalidCertificateOwnershipToken',
    });
  });

  test('meets another template, parameters that are missing or hostile, and a name that is taken', async () => {
    const { enrol, provision } = await makeLine();
    const { body } = await enrol(csrOf());
    const token = body['certificateOwnershipToken'];
    const foreign = await provision(token, fresh(), undefined, 'default');
    expect(foreign.body).toMatchObject({ statusCode: 403, errorCode: 'TemplateNotPermitted' });
    for (const serial of ['', '../x', 'a/b', 'a+b', 'a#b', 'a\0b', 'a$b', 'x'.repeat(300), 'x'.repeat(100), '✓']) {
      const answer = await provision(token, { model: 'pump', serial });
      expect(answer.body, serial).toMatchObject({ errorCode: 'InvalidParameters' });
    }
    expect((await provision(token, { model: 'pump' })).body).toMatchObject({ errorCode: 'InvalidParameters' });
    const parameters = fresh();
    expect(await provision(token, parameters)).toMatchObject({ accepted: true });
    const again = await enrol(csrOf());
    const sameName = { ...parameters, model: 'PUMP' };
    const taken = await provision(again.body['certificateOwnershipToken'], sameName);
    expect(taken.body).toMatchObject({ statusCode: 409, errorCode: 'DeviceExists' });
  });

  test('meets a request that is none, and a claim that is used up, over or revoked; each is audited', async () => {
    const { enrol, claim } = await makeLine({ usesMax: 1 });
    expect((await enrol('not a request')).body).toMatchObject({ statusCode: 400, errorCode: 'InvalidCsr' });
    expect(await enrol(csrOf())).toMatchObject({ accepted: true });
    expect((await enrol(csrOf())).body).toMatchObject({ statusCode: 403, errorCode: 'ClaimExhausted' });
    const set = (values: Partial<typeof claims.$inferInsert>) =>
      database.db.update(claims).set(values).where(eq(claims.id, claim.claimId));
    await set({ expiresAt: new Date(Date.now() - 1_000) });
    expect((await enrol(csrOf())).body).toMatchObject({ errorCode: 'ClaimExpired' });
    await set({ revokedAt: new Date() });
    expect((await enrol(csrOf())).body).toMatchObject({ errorCode: 'ClaimRevoked' });
    const entries = await database.db
      .select()
      .from(audit)
      .where(eq(audit.actor, `claim/${claim.claimId}`))
      .orderBy(audit.id);
    const codes = entries.flatMap(({ action, data }) => (action === 'enrolment.refused' ? [data['code']] : []));
    expect(codes).toEqual(['InvalidCsr', 'ClaimExhausted', 'ClaimExpired', 'ClaimRevoked']);
  });

  test('by the lifecycle arrives by its own name', async () => {
    const { enrol, claim } = await makeLine();
    await database.db.update(claims).set({ rateLeft: 0, ratePerMinute: 1 }).where(eq(claims.id, claim.claimId));
    expect((await enrol(csrOf())).body).toMatchObject({ statusCode: 429, errorCode: 'RateExceeded' });
  });
});

describe('keys made by the server', () => {
  test('are given once and kept nowhere, where the template permits them', async () => {
    const { ask, provision } = await makeLine({ serverMadeKeys: true });
    const { accepted, body } = await ask('$aws/certificates/create/json', {});
    expect(accepted).toBe(true);
    const leaf = new X509Certificate(String(body['certificatePem']));
    expect(leaf.checkPrivateKey(createPrivateKey(String(body['privateKey'])))).toBe(true);
    expect(await provision(body['certificateOwnershipToken'], fresh())).toMatchObject({ accepted: true });
    const certificateId = String(body['certificateId']);
    const [row] = await database.db.select().from(enrolments).where(eq(enrolments.certificateId, certificateId));
    const history = await temporal.client.workflow.getHandle(`provision-device/${row?.key}`).fetchHistory();
    const data = (history.events ?? []).map((event) => JSON.stringify(event));
    const secret = String(body['privateKey']).split('\n')[1] ?? 'none';
    expect(data.some((event) => event.includes(secret) || event.includes('PRIVATE KEY'))).toBe(false);
  });

  test('are refused by default', async () => {
    const { ask } = await makeLine();
    const { body } = await ask('$aws/certificates/create/json', {});
    expect(body).toMatchObject({ statusCode: 403, errorCode: 'ServerMadeKeysNotPermitted' });
  });
});

test('while Temporal is away an enrolment is told to try again before its client gives up', async () => {
  await using away = openClient({ address: '127.0.0.1:1', namespace: 'longhaul' });
  const { enrol } = await makeLine({ connected: away });
  const asked = performance.now();
  const { body } = await enrol(csrOf());
  expect(body).toMatchObject({ statusCode: 503, errorCode: 'ServiceUnavailable' });
  expect(performance.now() - asked).toBeLessThan(9_000);
});
