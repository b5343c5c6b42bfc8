import { createPublicKey, randomBytes } from 'node:crypto';
import { createServer, type RequestListener, type Server } from 'node:http';
import { createServer as createTlsServer } from 'node:https';
import type { AddressInfo } from 'node:net';
import { once } from 'node:events';
import { Webhook } from 'standardwebhooks';
import { afterEach, describe, expect, test } from 'vitest';
import { createDestinations, ForbiddenDestination } from '../../activities/destinations.ts';
import { createWebhooks, WebhookFailed } from '../../activities/webhooks.ts';
import { openAuthority } from '../../pki/authority.ts';
import { makeKeyPair } from '../../pki/keys.ts';
import { makeAuthorities } from '../pki/authorities.ts';

const secret = `whsec_${Buffer.alloc(32, 7).toString('base64')}`;
const servers: Server[] = [];
afterEach(() => {
  for (const server of servers.splice(0)) {
    server.closeAllConnections();
    server.close();
  }
});

const serve = (listener: RequestListener) => serveOn(createServer(listener));

async function serveOn(server: Server): Promise<number> {
  servers.push(server);
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  return (server.address() as AddressInfo).port; // it listens on TCP
}

const saying =
  (body: string, status = 200, headers = {}): RequestListener =>
  (_, response) =>
    void response.writeHead(status, headers).end(body);

const local = { permittedNetworks: ['127.0.0.1/32'], plain: true, withinMs: 1_000 };
const call = (port: number, rules = {}, host = '127.0.0.1') =>
  createWebhooks({ ...local, ...rules })({ url: `http://${host}:${port}/`, secret, id: 'enrolment_1', body: { a: 1 } });

test('a call is signed by Standard Webhooks under the id that it was given', async () => {
  const heard = Promise.withResolvers<{ headers: Record<string, string>; body: string }>();
  const port = await serve((request, response) => {
    const parts: Buffer[] = [];
    request.on('data', (part: Buffer) => parts.push(part));
    request.on('end', () => {
      // A header of ours is sent once, so it is a text.
      heard.resolve({ headers: request.headers as Record<string, string>, body: Buffer.concat(parts).toString() });
      response.end('{"allow": true}');
    });
  });
  expect(await call(port)).toEqual({ allow: true });
  const { headers, body } = await heard.promise;
  expect(headers['webhook-id']).toBe('enrolment_1');
  expect(new Webhook(secret).verify(body, headers)).toEqual({ a: 1 });
});

describe('no answer is', () => {
  test.each([
    ['a 500', saying('{"allow": true}', 500)],
    ['a 201', saying('{"allow": true}', 201)],
    ['a redirect', saying('', 307, { location: 'http://127.0.0.1:1/' })],
    ['no JSON', saying('yes')],
    ['nothing', saying('')],
    ['a connection that breaks', (request: Parameters<RequestListener>[0]) => void request.socket.destroy()],
    ['one that does not come', () => {}],
  ])('%s', async (_, listener: RequestListener) => {
    await expect(call(await serve(listener))).rejects.toThrow(WebhookFailed);
  });

  test('a body without end, which is cut off', async () => {
    const closed = Promise.withResolvers<void>();
    const port = await serve((_, response) => {
      response.on('close', () => closed.resolve());
      const more = () => void (response.destroyed || response.write('x'.repeat(16_384), () => setImmediate(more)));
      more();
    });
    await expect(call(port, { withinMs: 10_000 })).rejects.toThrow('too long');
    await closed.promise;
  });

  test('a body that drips, or a name that is not resolved in time', async () => {
    const port = await serve((_, response) => {
      const timer = setInterval(() => response.write(' '), 50);
      response.on('close', () => clearInterval(timer));
    });
    const begun = performance.now();
    await expect(call(port, { withinMs: 300 })).rejects.toThrow(WebhookFailed);
    await expect(call(port, { withinMs: 300, resolve: () => new Promise(() => {}) }, 'slow.example')).rejects.toThrow(
      'too long',
    );
    expect(performance.now() - begun).toBeLessThan(3_000);
  });

  test('one that comes under the certificate of another name', async () => {
    const { ca, ...server } = await makeServerCertificate('hook.example');
    const port = await serveOn(createTlsServer(server, saying('{"allow": true}')));
    const hook = createWebhooks({ ...local, ca, resolve: async () => ['127.0.0.1'] });
    const ask = (name: string) => hook({ url: `https://${name}:${port}/`, secret, id: '1', body: {} });
    expect(await ask('hook.example')).toEqual({ allow: true });
    await expect(ask('other.example')).rejects.toThrow('could not be reached');
    const trusting = createWebhooks({ ...local, resolve: async () => ['127.0.0.1'] });
    await expect(trusting({ url: `https://hook.example:${port}/`, secret, id: '1', body: {} })).rejects.toThrow(
      WebhookFailed,
    );
  });
});

async function makeServerCertificate(name: string) {
  const { root, material } = await makeAuthorities();
  const authority = await openAuthority(material);
  const pair = makeKeyPair();
  const publicKey = createPublicKey(pair.publicKeyPem).export({ type: 'spki', format: 'der' });
  const certificateId = randomBytes(32).toString('hex');
  const subject = { server: [name] };
  const issued = await authority.issue({
    profile: 'server',
    certificateId,
    subject,
    publicKey,
    lifetimeMs: 86_400_000,
  });
  return { ca: root.certificatePem, cert: issued.chainPem, key: pair.privateKeyPem };
}

describe('an address', () => {
  const judge = (address: string, rules = {}) =>
    createDestinations({ resolve: async () => [address], ...rules })('https://hook.example/');

  test.each(
    `127.0.0.1 127.9.9.9 0.0.0.0 10.1.2.3 172.16.0.1 172.31.255.255 192.168.1.1 169.254.169.254 100.64.0.1 100.100.100.200
     192.0.0.192 198.18.0.1 224.0.0.1 239.1.1.1 255.255.255.255 240.0.0.1 203.0.113.5
     ::1 :: fe80::1 fc00::1 fd00:ec2::254 ff02::1 ::ffff:127.0.0.1 ::ffff:10.0.0.1 ::ffff:7f00:1 64:ff9b::7f00:1
     2002:7f00:1:: 2001:0:1::1 2001:db8::1 ::127.0.0.1`
      .trim()
      .split(/\s+/),
  )('%s is not called', async (address) => {
    await expect(judge(address)).rejects.toThrow(ForbiddenDestination);
  });

  test.each(['93.184.216.34', '172.32.0.1', '2606:2800:220:1::1'])('%s is public', async (address) => {
    expect(await judge(address)).toMatchObject({ address });
  });

  test('is called in a network that an operator permits, and beside it not', async () => {
    const rules = { permittedNetworks: ['10.1.0.0/16', 'fd00:1::/32'] };
    expect(await judge('10.1.2.3', rules)).toMatchObject({ address: '10.1.2.3' });
    expect(await judge('fd00:1::5', rules)).toMatchObject({ family: 6 });
    await expect(judge('10.2.2.3', rules)).rejects.toThrow(ForbiddenDestination);
  });

  test('among several of a name must not be a private one', async () => {
    const resolve = async () => ['93.184.216.34', '10.0.0.1'];
    await expect(createDestinations({ resolve })('https://hook.example/')).rejects.toThrow(ForbiddenDestination);
  });

  test.each([
    'http://93.184.216.34/',
    'https://a:b@93.184.216.34/',
    'https://127.1/',
    'https://0x7f000001/',
    'https://2130706433/',
    'https://[::1]/',
    'https://[::ffff:127.0.0.1]/',
    'file:///etc/passwd',
    'nonsense',
  ])('%s is refused however it is written', async (url) => {
    await expect(createDestinations({})(url)).rejects.toThrow(ForbiddenDestination);
  });
});

test('the connection goes to the address that was judged, whatever the name means by then', async () => {
  const port = await serve(saying('{"allow": true}'));
  const answers = ['127.0.0.2', '127.0.0.1'];
  let asked = 0;
  const resolve = async () => [answers[asked++] ?? ''];
  const rules = { permittedNetworks: ['127.0.0.2/32'], resolve };
  await expect(call(port, rules, 'rebinding.example')).rejects.toThrow('could not be reached');
  expect(asked).toBe(1);
  await expect(call(port, rules, 'rebinding.example')).rejects.toThrow(ForbiddenDestination);
});
