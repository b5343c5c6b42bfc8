import { createServer, type IncomingHttpHeaders } from 'node:http';
import { once } from 'node:events';
import type { AddressInfo } from 'node:net';
import { Webhook } from 'standardwebhooks';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { hookAnswers, templateHooks } from '../../db/enrolment-schema.ts';
import { makeCsr, makeKeyPair } from '../../pki/keys.ts';
import { openRig, type Rig } from './rig.ts';

type Asked = { headers: IncomingHttpHeaders; body: string };
let say: () => { status?: number; body: string } | undefined;
const asked: Asked[] = [];
const server = createServer((request, response) => {
  const parts: Buffer[] = [];
  request.on('data', (part: Buffer) => parts.push(part));
  request.on('end', () => {
    asked.push({ headers: request.headers, body: Buffer.concat(parts).toString() });
    const said = say();
    if (said) response.writeHead(said.status ?? 200).end(said.body);
  });
});

let rig: Rig;
let url: string;
beforeAll(async () => {
  rig = await openRig({ permittedNetworks: ['127.0.0.1/32'], plain: true, withinMs: 1_000 });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  url = `http://127.0.0.1:${(server.address() as AddressInfo).port}/`; // it listens on TCP
}, 120_000);
afterAll(async () => {
  await rig[Symbol.asyncDispose]();
  server.closeAllConnections();
  server.close();
});

async function makeHook(at = url) {
  const { template, hookSecret } = await rig.makeTemplate({ hook: { url: at } });
  const { permit, token } = await rig.makeToken(template);
  asked.length = 0;
  return { template, hookSecret, permit, token };
}

test('a hook that allows is asked once, signed, and told no secret', async () => {
  const { template, hookSecret, permit, token } = await makeHook();
  say = () => ({ body: '{"allow": true, "more": 1}' });
  const key = makeKeyPair();
  const first = await rig.enrol(permit, '1', key);
  expect(await rig.enrol(permit, '1', key)).toEqual(first);
  expect(asked).toHaveLength(1);
  const [{ headers, body } = { headers: {}, body: '' }] = asked;
  const verified = new Webhook(hookSecret).verify(body, headers as Record<string, string>); // each is sent once
  expect(verified).toMatchObject({
    type: 'enrolment.requested',
    data: { template, claim: permit.claimId, device: `${template}-1`, exists: false, parameters: { serial: '1' } },
  });
  expect(body).not.toContain(token);
  expect(body).not.toContain('PRIVATE');
  const kept = JSON.stringify(await rig.db.select().from(templateHooks), (_, value: unknown) =>
    value instanceof Uint8Array ? Buffer.from(value).toString('latin1') : value,
  );
  expect(kept).not.toContain(hookSecret);
});

test('its parameters take the place of what the device said, and are held to the same rules', async () => {
  const { template, permit } = await makeHook();
  say = () => ({ body: '{"allow": true, "parameters": {"serial": "from-hook"}}' });
  expect(await rig.enrol(permit, '1')).toMatchObject({ deviceName: `${template}-from-hook` });
  const bad = ['{"serial": "../x"}', '{"serial": 5}', '{"other": "x"}', '[]', '"x"', '{"serial": "a\\u0000b"}', 'null'];
  for (const parameters of bad) {
    say = () => ({ body: `{"allow": true, "parameters": ${parameters}}` });
    expect(await rig.refused(rig.enrol(permit, '2')), parameters).toBe('HookFailed');
  }
});

test.each([
  ['false', '{"allow": false}'],
  ['the text true', '{"allow": "true"}'],
  ['the number 1', '{"allow": 1}'],
  ['nothing about it', '{}'],
  ['true in a list', '[{"allow": true}]'],
  ['true, bare', 'true'],
  ['null', 'null'],
])('one that says %s has denied, and its answer stands', async (_, body) => {
  const { permit } = await makeHook();
  say = () => ({ body });
  const key = makeKeyPair();
  expect(await rig.refused(rig.enrol(permit, '1', key))).toBe('HookDenied');
  say = () => ({ body: '{"allow": true}' });
  expect(await rig.refused(rig.enrol(permit, '1', key))).toBe('HookDenied');
  expect(asked).toHaveLength(1);
});

test.each([
  ['answers 500', { status: 500, body: '{"allow": true}' }],
  ['redirects', { status: 302, body: '' }],
  ['says nothing', undefined],
])('one that %s has denied this request, and is asked again under the same id by the next', async (_, said) => {
  const { permit } = await makeHook();
  say = () => said;
  const key = makeKeyPair();
  const before = await rig.db.$count(hookAnswers);
  expect(await rig.refused(rig.enrol(permit, '1', key))).toBe('HookFailed');
  expect(await rig.db.$count(hookAnswers)).toBe(before);
  say = () => ({ body: '{"allow": true}' });
  expect(await rig.refused(rig.enrol(permit, '1', key))).toBe('accepted');
  expect(asked).toHaveLength(2);
  expect(asked[0]?.headers['webhook-id']).toBe(asked[1]?.headers['webhook-id']);
});

test.each(['http://169.254.169.254/latest', 'http://10.0.0.1/', 'http://[::1]/', 'http://127.0.0.2/'])(
  'one at %s is not called, and so denies',
  async (at) => {
    const { permit } = await makeHook(at);
    expect(await rig.refused(rig.enrol(permit, '1'))).toBe('HookFailed');
    expect(asked).toEqual([]);
  },
);

test('a hook decides over the second of two steps, too', async () => {
  const { template, permit } = await makeHook();
  say = () => ({ body: '{"allow": false}' });
  await rig.entrance.certify(permit, makeCsr(makeKeyPair()));
  expect(asked).toHaveLength(0);
  const enrolment = await rig.enrolmentOf(permit);
  if (!enrolment) throw new Error('there is no enrolment');
  const registered = rig.entrance.register(enrolment, { template, parameters: { serial: '1' } });
  expect(await rig.refused(registered)).toBe('HookDenied');
});
