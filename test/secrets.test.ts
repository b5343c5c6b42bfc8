import { createPrivateKey, randomBytes } from 'node:crypto';
import { readdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { Client, Connection } from '@temporalio/client';
import { historyToJSON } from '@temporalio/common/lib/proto-utils.js';
import { sql } from 'drizzle-orm';
import { afterAll, beforeAll, expect, inject, test } from 'vitest';
import { dial5 } from './clients/aws-device.ts';
import { provisionV2 } from './clients/aws-provisioning.ts';
import { executionTopic, finished, freshParameters, makeClaim, sendCommand } from './clients/fleet.ts';
import { eventually } from './support/eventually.ts';
import { startSystem, type System } from './support/system.ts';

/** Everything that nobody but its owner may read, by name, as bytes. */
type Secrets = Record<string, Buffer[]>;

let system: System;
let secrets: Secrets;
/** What was answered beside the one answer that gives a secret to its owner. */
let answers: string[];
/** Some of what is no secret, and must be found: that the search looks where things are. */
let known: { deviceName: string; claimId: string; template: string };

beforeAll(async () => {
  system = await startSystem({ env: { LOG_LEVEL: 'trace' } });
  answers = [];
  secrets = { 'the API key': ofText(/^lh_[0-9a-f]{32}_(.+)$/.exec(system.token)?.[1] ?? '') };
  await liveAWholeLife();
  const files = {
    'the root’s private key': 'root-private-key.pem',
    'the gateway’s private key': 'gateway-key.pem',
    'the key that encrypts keys': 'key-encryption-key',
    'the key of the files’ addresses': 'address-key',
  };
  for (const [name, file] of Object.entries(files)) {
    const text = await readFile(join(system.folder, file), 'utf8');
    secrets[name] = file.endsWith('.pem') ? ofKey(text) : ofText(text.trim());
  }
}, 120_000);
afterAll(() => system[Symbol.asyncDispose]());

/** An enrolment with all that can go wrong in it, a command, and an operator who is careless with his key. */
async function liveAWholeLife(): Promise<void> {
  const { ask, mqtt, db, token } = system;
  const claim = await makeClaim(system, { serverMadeKeys: true });
  secrets['the claim’s private key'] = ofKey(claim.privateKey);
  const idempotent = { 'idempotency-key': randomBytes(8).toString('hex') };
  const askForClaim = () => ask('POST', '/v1/claims', { template: claim.template }, idempotent);
  const first = await askForClaim();
  secrets['the private key of a claim asked for twice'] = ofKey(/-----BEGIN PRIVATE[^"]*/.exec(first.text)?.[0] ?? '');
  const again = await askForClaim();
  expect(again).toMatchObject({ status: 201 });
  answers.push(again.text);

  await using line = await dial5(mqtt, { ...claim, clientId: 'line', cleanSession: true });
  const provisioning = provisionV2(line);
  const issued = await provisioning.createKeys();
  const { certificateOwnershipToken, certificatePem, privateKey } = issued;
  secrets['the private key made for a device'] = ofKey(privateKey);
  secrets['the ownership token'] = ofText(certificateOwnershipToken);
  const refused = (work: Promise<unknown>) =>
    work.then(
      () => expect.unreachable(),
      (error) => error as object,
    );
  for (const serial of ['../..', 'x'.repeat(300)]) {
    const refusal = await refused(
      provisioning.register(claim.template, certificateOwnershipToken, { serial, site: '' }),
    );
    answers.push(JSON.stringify(refusal));
  }
  const topic = `$aws/provisioning-templates/${claim.template}/provision/json`;
  await line.publish(topic, `{"certificateOwnershipToken":"${certificateOwnershipToken}","parameters":{`);
  await db.execute(sql`alter table ownership_tokens rename to ownership_tokens_away`);
  answers.push(JSON.stringify(await refused(provisioning.createKeys())));
  answers.push(
    JSON.stringify(await refused(provisioning.register(claim.template, certificateOwnershipToken, freshParameters()))),
  );
  await db.execute(sql`alter table ownership_tokens_away rename to ownership_tokens`);
  const registered = await provisioning.register(claim.template, certificateOwnershipToken, freshParameters());
  const name = registered.thingName ?? '';
  answers.push(JSON.stringify(registered));
  known = { deviceName: name, claimId: claim.id, template: claim.template };

  await using device = await dial5(mqtt, { certificate: certificatePem, privateKey, clientId: name });
  await device.subscribe(executionTopic(name, '+', 'request/json'));
  const command = await sendCommand(system, name, { operation: 'reboot' });
  await eventually(() => device.heard.length > 0);
  const executionId = command.targets[0]?.executionId ?? '';
  await device.publish(executionTopic(name, executionId, 'response/json'), { status: 'SUCCEEDED' });
  await finished(system, command.id);

  const careless = [
    await ask('GET', `/v1/devices?filter=${token}`),
    await ask('GET', `/v1/devices?key=${token}`),
    await ask('GET', `/v1/devices/${token}`),
    await ask('GET', `/v1/${token}`),
    await ask('POST', '/v1/commands', `{"targets":"${token}"`),
    await ask('POST', '/v1/commands', { targets: name, payload: 1, authorization: token }),
    await ask('POST', '/v1/commands', { targets: name, payload: 1, [token]: 1 }),
    await ask('GET', '/v1/devices', undefined, { authorization: `Basic ${token}` }),
    await ask('GET', '/v1/devices', undefined, { authorization: `Bearer ${token}x` }),
  ];
  for (const { status, text } of careless) {
    expect(status).toBeGreaterThanOrEqual(400);
    answers.push(text);
  }
}

const places: [string, () => Promise<string>, () => string[]][] = [
  ['any history of a workflow', readHistories, () => [base64Of(known.claimId), base64Of(known.deviceName)]],
  ['the log of any process', readLogs, () => ['gateway is ready', 'an enrolment could not be answered']],
  [
    'any row of the database',
    dumpDatabase,
    () => [known.deviceName, 'enrolment.refused', '/v1/claims', 'BEGIN CERTIFICATE'],
  ],
  ['any further answer', async () => answers.join('\n'), () => ['InvalidParameters', '"title":', 'BEGIN CERTIFICATE']],
];

test.each(places)('no secret is in %s', async (_, read, controls) => {
  const text = await read();
  for (const control of controls()) expect(text.includes(control), control).toBe(true);
  expect(findSecrets(text)).toEqual([]);
});

test('each would be found, in whatever way it was written', () => {
  expect(Object.keys(secrets)).toHaveLength(9);
  for (const [name, [bytes = Buffer.alloc(0)]] of Object.entries(secrets)) {
    expect(bytes.length).toBeGreaterThanOrEqual(32);
    const written = ['', 'a', 'ab'].map((before) => Buffer.concat([Buffer.from(before), bytes, Buffer.from('z')]));
    for (const buffer of written) {
      for (const encoding of ['latin1', 'hex', 'base64', 'base64url'] as const) {
        expect(findSecrets(`{"x":"${buffer.toString(encoding)}"}`), `${name} in ${encoding}`).toContain(name);
      }
    }
  }
});

/** The names of the secrets in it: as they are, in hex, or in base64 wherever in its groups of three they begin. */
function findSecrets(text: string): string[] {
  const found = Object.entries(secrets).filter(([, forms]) =>
    forms.flatMap(needlesOf).some((needle) => text.includes(needle)),
  );
  return found.map(([name]) => name);
}

function needlesOf(bytes: Buffer): string[] {
  const shifted = [0, 1, 2].map((shift) => bytes.subarray(shift, shift + Math.floor((bytes.length - shift) / 3) * 3));
  const base64 = shifted.flatMap((whole) => [whole.toString('base64'), whole.toString('base64url')]);
  return [bytes.toString('latin1'), bytes.toString('hex'), ...base64];
}

/** The text, and the bytes that it stands for. */
const ofText = (text: string): Buffer[] => [Buffer.from(text), Buffer.from(text, 'base64url')];

/** The number that is the secret of an elliptic key, and the lines of its PEM in which it stands. */
function ofKey(pem: string): Buffer[] {
  const text = pem.replaceAll(String.raw`\n`, '\n');
  const { d = '' } = createPrivateKey(text).export({ format: 'jwk' });
  const lines = text.split('\n').slice(1, 3);
  return [Buffer.from(d, 'base64url'), ...lines.map((line) => Buffer.from(line))];
}

const base64Of = (text: string) => Buffer.from(text).toString('base64').slice(0, -4);

async function readHistories(): Promise<string> {
  const { address, namespace, taskQueue } = system.temporal;
  const connection = await Connection.connect({ address });
  try {
    const { workflow } = new Client({ connection, namespace });
    const texts: string[] = [];
    for await (const listed of workflow.list({ query: `TaskQueue = "${taskQueue}"` })) {
      const history = await workflow.getHandle(listed.workflowId, listed.runId).fetchHistory();
      texts.push(listed.workflowId, JSON.stringify(listed.memo), historyToJSON(history));
    }
    expect(texts.filter((text) => text.startsWith('provision-device/')).length).toBeGreaterThanOrEqual(2);
    expect(texts.some((text) => text.startsWith('send-command/'))).toBe(true);
    return texts.join('\n');
  } finally {
    await connection.close();
  }
}

/** Ours at their most talkative, and those of Postgres and Temporal. */
async function readLogs(): Promise<string> {
  const files = await listLogs(inject('folder'));
  const texts = await Promise.all(files.map((file) => readFile(file, 'utf8').catch(() => '')));
  return [await system.readLogs(), ...texts].join('\n');
}

/** Folders of tests that end meanwhile are gone when they are looked into. */
async function listLogs(folder: string): Promise<string[]> {
  const entries = await readdir(folder, { withFileTypes: true }).catch(() => []);
  const found = entries.map(async (entry) => {
    const path = join(folder, entry.name);
    if (entry.isDirectory()) return listLogs(path);
    return entry.name.endsWith('.log') ? [path] : [];
  });
  return (await Promise.all(found)).flat();
}

/** Every row of every table as text; bytes are in hex there. */
async function dumpDatabase(): Promise<string> {
  const tables = await system.db.execute<{ name: string }>(sql`
    select quote_ident(relname) as name from pg_class
    where relnamespace = 'public'::regnamespace and relkind in ('r', 'p') and not relispartition`);
  expect(tables.length).toBeGreaterThan(20);
  const dumps = tables.map(async ({ name }) => {
    const rows = await system.db.execute<{ row: string }>(sql.raw(`select t::text as row from ${name} t`));
    return [name, ...rows.map(({ row }) => row)].join('\n');
  });
  return (await Promise.all(dumps)).join('\n');
}
