import { createHash } from 'node:crypto';
import { eq } from 'drizzle-orm';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { ownershipTokens } from '../../db/enrolment-schema.ts';
import { commandTargets, devices } from '../../db/schema.ts';
import { makeCsr, makeKeyPair } from '../../pki/keys.ts';
import { makeCommand } from '../gateway/rows.ts';
import { openDoor, visit, type Claim, type Door, type Visitor } from './door.ts';
import { executionTopic, freshParameters } from './fleet.ts';

let door: Door;
let neighbour: Visitor;
let neighboursClaim: Claim;
beforeAll(async () => {
  door = await openDoor();
  neighboursClaim = await door.makeLine();
  neighbour = await visit(door, neighboursClaim);
}, 60_000);
afterAll(() => door[Symbol.asyncDispose]());

let claim: Claim;
let visitor: Visitor;
beforeEach(async () => {
  claim = await door.makeLine();
  visitor = await visit(door, claim);
});
/** On the same gateway, connected since before: still there, and served. */
afterEach(async () => {
  await issue(neighbour);
});

const csrTopic = '$aws/certificates/create-from-csr/json';
const keysTopic = '$aws/certificates/create/json';
const provisionTopic = (template = claim.template) => `$aws/provisioning-templates/${template}/provision/json`;

/** A fresh certificate's ownership token. */
async function issue(by: Visitor): Promise<string> {
  const { accepted, body } = await by.ask(csrTopic, { certificateSigningRequest: makeCsr(makeKeyPair()) });
  if (!accepted) throw new Error(`no certificate: ${JSON.stringify(body)}`);
  return String(body['certificateOwnershipToken']);
}

/** Refused by this code, for this reason, with its audit entry, and nothing was done by it. */
async function expectRefusal(topic: string, body: unknown, code: string, detail: RegExp) {
  const before = await door.countRows();
  const answer = await visitor.ask(topic, body);
  expect(answer.accepted).toBe(false);
  const { errorCode, errorMessage, statusCode } = answer.body;
  expect({ errorCode, errorMessage }).toEqual({ errorCode: code, errorMessage: expect.stringMatching(detail) });
  expect(statusCode).toSatisfy((status: number) => status >= 400 && status < 500);
  expect(await door.countRows()).toEqual(before);
  expect((await door.listRefusals(claim)).at(-1)).toEqual({ code, detail: errorMessage });
}

describe('an ownership token', () => {
  const invalid = ['InvalidCertificateOwnershipToken', /unknown, over, or was given to somebody else/] as const;
  const withToken = (certificateOwnershipToken: unknown, serial = freshParameters().serial) => ({
    certificateOwnershipToken,
    parameters: { serial },
  });

  test('with one character changed is worth nothing, wherever it is changed, nor is half of one', async () => {
    const token = await issue(visitor);
    const changes = [0, 21, 42].map((at) => token.slice(0, at) + (token[at] === 'A' ? 'B' : 'A') + token.slice(at + 1));
    for (const bad of [
      ...changes,
      token.slice(0, -1),
      `${token}A`,
      `${token}\0`,
      token.toLowerCase(),
      '',
      "' or 1=1",
    ]) {
      await expectRefusal(provisionTopic(), withToken(bad), ...invalid);
    }
    expect(await visitor.ask(provisionTopic(), withToken(token))).toMatchObject({ accepted: true });
  });

  test('of another claim is worth nothing, and stays good for its own', async () => {
    const token = await issue(neighbour);
    await expectRefusal(provisionTopic(), withToken(token), ...invalid);
    const answer = await neighbour.ask(provisionTopic(neighboursClaim.template), withToken(token));
    expect(answer).toMatchObject({ accepted: true });
  });

  test('whose hour is over is worth nothing', async () => {
    const token = await issue(visitor);
    const hash = createHash('sha256').update(token).digest();
    const past = { expiresAt: new Date(Date.now() - 1) };
    await door.fleet.db.update(ownershipTokens).set(past).where(eq(ownershipTokens.hash, hash));
    await expectRefusal(provisionTopic(), withToken(token), ...invalid);
  });

  test('that was used makes no second device, and tells the first again', async () => {
    const token = await issue(visitor);
    const used = withToken(token);
    const first = await visitor.ask(provisionTopic(), used);
    expect(first).toMatchObject({ accepted: true });
    await expectRefusal(provisionTopic(), withToken(token), 'AlreadyRegistered', /with other parameters/);
    expect(await visitor.ask(provisionTopic(), used)).toEqual(first);
  });

  test.each([[17], [true], [null], [['x']], [{ a: 1 }], [undefined]])('that is %s is no token', async (token) => {
    const field = /^certificateOwnershipToken: .*string/;
    await expectRefusal(provisionTopic(), withToken(token), 'InvalidRequest', field);
  });
});

describe('parameters of a registration', () => {
  const nameRule = /1 to 63 of A-Z a-z 0-9 _ \. : -/;

  test.each<[string, object, RegExp]>([
    ['are missing', {}, /parameter serial is missing/],
    ['are empty', { serial: '' }, /parameter serial is missing/],
    ['are inherited only', JSON.parse('{"__proto__":{"serial":"x"}}') as object, /parameter serial is missing/],
    ['climb', { serial: '../../etc' }, nameRule],
    ['hold a level', { serial: 'a/b' }, nameRule],
    ['hold a wildcard +', { serial: '+' }, nameRule],
    ['hold a wildcard #', { serial: '#' }, nameRule],
    ['hold a dollar', { serial: '${serial}' }, nameRule],
    ['hold a quote', { serial: "'; drop table devices; --" }, nameRule],
    ['hold a NUL', { serial: 'a\0b' }, /parameter serial holds a control character/],
    ['hold a line end', { serial: 'a\nb' }, /parameter serial holds a control character/],
    ['are not ASCII', { serial: 'ｐｕｍｐ' }, nameRule],
    ['have 300 characters', { serial: 'x'.repeat(300) }, /parameter serial is longer than 256 characters/],
    ['have 59 characters, which with the pattern is one too many', { serial: 'x'.repeat(59) }, nameRule],
  ])('that %s are refused', async (_, parameters, detail) => {
    const certificateOwnershipToken = await issue(visitor);
    const body = { certificateOwnershipToken, parameters };
    await expectRefusal(provisionTopic(), body, 'InvalidParameters', detail);
    // The certificate is not spent by it.
    const good = { certificateOwnershipToken, parameters: { serial: freshParameters().serial } };
    expect(await visitor.ask(provisionTopic(), good)).toMatchObject({ accepted: true });
  });

  test.each<[string, unknown]>([
    ['a list', ['x']],
    ['a text', 'serial=x'],
    ['nested', { serial: { a: 'x' } }],
    ['nothing', { serial: null }],
  ])('that are %s are refused', async (_, parameters) => {
    const certificateOwnershipToken = await issue(visitor);
    await expectRefusal(provisionTopic(), { certificateOwnershipToken, parameters }, 'InvalidRequest', /^parameters/);
  });

  test('that make the name of another device, in whatever case, are refused, and that device is as it was', async () => {
    const { serial } = freshParameters();
    const first = { certificateOwnershipToken: await issue(visitor), parameters: { serial: `${serial}-a` } };
    expect(await visitor.ask(provisionTopic(), first)).toMatchObject({ accepted: true });
    const [before] = await rowOf(`pump-${serial}-a`);
    const second = { certificateOwnershipToken: await issue(visitor), parameters: { serial: `${serial}-A` } };
    await expectRefusal(provisionTopic(), second, 'DeviceExists', new RegExp(`pump-${serial}-A is enrolled`));
    expect(await rowOf(`pump-${serial}-a`)).toEqual([before]);
  });

  test('that are numbers are taken for their text', async () => {
    const body = { certificateOwnershipToken: await issue(visitor), parameters: { serial: 4711 } };
    expect(await visitor.ask(provisionTopic(), body)).toMatchObject({
      accepted: true,
      body: { thingName: 'pump-4711' },
    });
  });

  test('for a template of somebody else are refused', async () => {
    const body = { certificateOwnershipToken: await issue(visitor), parameters: freshParameters() };
    const topic = provisionTopic(neighboursClaim.template);
    await expectRefusal(topic, body, 'TemplateNotPermitted', new RegExp(`for template ${claim.template}`));
  });

  const rowOf = (name: string) => door.fleet.db.select().from(devices).where(eq(devices.name, name));
});

describe('a payload', () => {
  const nested = (levels: number) => `${'{"a":'.repeat(levels)}1${'}'.repeat(levels)}`;
  const bad: [string, Buffer | string, string, RegExp][] = [
    ['that is not JSON', 'certificateSigningRequest=x', 'InvalidJson', /is not JSON/],
    ['that is cut short', '{"certificateSigningRequest":"x', 'InvalidJson', /is not JSON/],
    ['that is two documents', '{}{}', 'InvalidJson', /is not JSON/],
    ['with a NUL in its middle', '{}\0{}', 'InvalidJson', /is not JSON/],
    ['that is not UTF-8', Buffer.from([0x7b, 0x22, 0xff, 0x22, 0x3a, 0x31, 0x7d]), 'InvalidJson', /is not UTF-8/],
    ['that is a list', '[]', 'InvalidRequest', /is not a JSON object/],
    ['that is null', 'null', 'InvalidRequest', /is not a JSON object/],
    ['17 levels deep', nested(17), 'InvalidRequest', /more than 16 levels/],
    ['10,000 levels deep', nested(10_000), 'InvalidRequest', /more than 16 levels/],
    ['larger than its limit', `{"a":"${'x'.repeat(65 * 1024)}"}`, 'InvalidRequest', /larger than 65536 bytes/],
    ['whose field is a number', '{"certificateSigningRequest":17}', 'InvalidRequest', /^certificateSigningRequest: /],
    ['whose field is a list', '{"certificateSigningRequest":[]}', 'InvalidRequest', /^certificateSigningRequest: /],
    ['whose field is its prototype’s', '{"__proto__":{"certificateSigningRequest":"x"}}', 'InvalidRequest', /^cert/],
    ['of no bytes, where fields are wanted', '', 'InvalidRequest', /^certificateSigningRequest: /],
    ['of NULs only', '\0\0', 'InvalidRequest', /^certificateSigningRequest: /],
    ['with a request that is none', '{"certificateSigningRequest":"x"}', 'InvalidCsr', /^not-pem: /],
  ];

  test.each(bad)('%s is refused', async (_, payload, code, detail) => {
    await expectRefusal(csrTopic, payload, code, detail);
    expect(Object.prototype).not.toHaveProperty('certificateSigningRequest');
  });

  test('with duplicate keys, `__proto__`, unknown fields and a NUL at its end is taken by its last values', async () => {
    const csr = JSON.stringify(makeCsr(makeKeyPair()));
    const payload = `{"__proto__":{"polluted":1},"certificateSigningRequest":"x","more":[{}],"certificateSigningRequest":${csr}}\0`;
    expect(await visitor.ask(csrTopic, payload)).toMatchObject({ accepted: true });
    expect({}).not.toHaveProperty('polluted');
  });

  test('of no bytes is enough where no field is wanted', async () => {
    await expectRefusal(keysTopic, '', 'ServerMadeKeysNotPermitted', new RegExp(`template ${claim.template}`));
    const permitting = await visit(door, await door.makeLine({ serverMadeKeys: true }));
    expect(await permitting.ask(keysTopic, '')).toMatchObject({ accepted: true });
    expect(await permitting.ask(keysTopic, '\0')).toMatchObject({ accepted: true });
  });

  test.each([4, 5] as const)('of 1 MiB ends its own connection over MQTT %s, and no other', async (version) => {
    const before = await door.countRows();
    const large = await visit(door, claim, version);
    const asked = large.ask(csrTopic, 'x'.repeat(1024 * 1024));
    await expect(asked).rejects.toThrow(/ended before the answer|exceeds? maximum packet size/i);
    expect(await door.countRows()).toEqual(before);
    expect(visitor.client.connected).toBe(true);
  });
});

describe('a report about a command', () => {
  test.each<[string, string, string, RegExp]>([
    ['that is not JSON', 'SUCCEEDED', 'InvalidJson', /is not JSON/],
    ['without a status', '{}', 'InvalidRequest', /^status: must be IN_PROGRESS, SUCCEEDED/],
    ['with the service’s status', '{"status":"CANCELED"}', 'InvalidRequest', /^status: must be/],
    ['with a number for a status', '{"status":1}', 'InvalidRequest', /^status: must be/],
    ['with the status of its prototype', '{"__proto__":{"status":"SUCCEEDED"}}', 'InvalidRequest', /^status: must be/],
  ])('%s is rejected, and the command stands as it stood', async (_, payload, error, errorMessage) => {
    const device = await door.fleet.makeDevice();
    const { executionIds } = await makeCommand(door.fleet.db, [device]);
    const [executionId = ''] = executionIds;
    const before = await door.countRows();
    const reporter = await visit(door, device);
    const answer = await reporter.ask(executionTopic(device.name, executionId, 'response/json'), payload);
    expect(answer).toEqual({
      accepted: false,
      body: { error, errorMessage: expect.stringMatching(errorMessage), executionId },
    });
    expect(await door.countRows()).toEqual(before);
    const [row] = await door.fleet.db.select().from(commandTargets).where(eq(commandTargets.executionId, executionId));
    expect(row).toMatchObject({ status: 'CREATED', version: 1 });
  });
});
