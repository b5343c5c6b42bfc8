import { createHash, createHmac, createPublicKey } from 'node:crypto';
import { describe, expect, test } from 'vitest';
import { readPublicKeys } from '../../embedded/device-jws.ts';
import { requireOrder } from '../../embedded/device-order.ts';
import { createOrderSigner } from '../../pki/orders.ts';
import { makeReleaseKey, refusal } from './releases.ts';

const key = makeReleaseKey();
const next = makeReleaseKey();
const edwards = makeReleaseKey('EdDSA');
const stranger = makeReleaseKey();
const keys = readPublicKeys([key.publicKeyPem, next.publicKeyPem, edwards.publicKeyPem]);
const manifest = 'header.payload.signature';
const nowMs = Date.parse('2027-01-01T00:00:00Z');
const now = nowMs / 1_000;
const intended = { device: 'pump-1', jobId: 'a-job', executionNumber: 2, manifest, nowMs };
const order = {
  device: 'pump-1',
  job: 'a-job',
  execution: 2,
  manifest: createHash('sha256').update(manifest).digest('hex'),
  issuedAt: now,
  expiresAt: now + 3_600,
};
const typ = 'ota-order+jws';
const sign = (change: object = {}, header: object = {}, signer = key) =>
  signer.sign({ ...order, ...change }, { typ, ...header });
const verdict = (jws: string | undefined, change: object = {}) =>
  refusal(() => requireOrder(jws, keys, { ...intended, ...change }));

describe('a device takes an order', () => {
  test('that the product has signed', async () => {
    const { privateKey } = key;
    const signOrder = await createOrderSigner({ privateKey, lifetimeSeconds: 3_600, now: () => nowMs });
    const { issuedAt: _, expiresAt: __, ...asked } = order;
    expect(verdict(signOrder(asked))).toBeUndefined();
  });

  test('by either of two keys that it knows, and with fields that it does not', () => {
    expect(verdict(sign())).toBeUndefined();
    expect(verdict(sign({}, {}, next))).toBeUndefined();
    expect(verdict(sign({ notes: 'for nobody' }))).toBeUndefined();
  });

  test('and no other', () => {
    const good = sign();
    const [header = '', payload = '', signature = ''] = good.split('.');
    const encode = (value: unknown) => Buffer.from(JSON.stringify(value)).toString('base64url');
    const none = encode({ alg: 'none', typ, kid: key.kid });
    const hs256 = `${encode({ alg: 'HS256', typ, kid: key.kid })}.${payload}`;
    const der = createPublicKey(key.publicKeyPem).export({ type: 'spki', format: 'der' });
    const macOf = (secret: string | Buffer) => createHmac('sha256', secret).update(hs256).digest('base64url');
    const refusals: Record<string, [string | undefined, string]> = {
      missing: [undefined, 'MISSING_ORDER'],
      empty: ['', 'MALFORMED_ORDER'],
      'no JWS': ['order', 'MALFORMED_ORDER'],
      'four parts': [`${good}.${signature}`, 'MALFORMED_ORDER'],
      'no JSON': [`${Buffer.from('{').toString('base64url')}.${payload}.${signature}`, 'MALFORMED_ORDER'],
      'a manifest in its place': [sign({}, { typ: 'ota-manifest+jws' }), 'MALFORMED_ORDER'],
      'an extension that must be understood': [sign({}, { crit: ['exp'] }), 'MALFORMED_ORDER'],
      'no attempt': [sign({ execution: undefined }), 'MALFORMED_ORDER'],
      'no end': [sign({ expiresAt: undefined }), 'MALFORMED_ORDER'],
      'an end in words': [sign({ expiresAt: '2099-01-01T00:00:00Z' }), 'MALFORMED_ORDER'],
      unsigned: [`${none}.${payload}.`, 'MALFORMED_ORDER'],
      'none with a signature': [`${none}.${payload}.${signature}`, 'WRONG_ORDER_ALGORITHM'],
      'the public key as a secret': [`${hs256}.${macOf(key.publicKeyPem)}`, 'WRONG_ORDER_ALGORITHM'],
      'the public key in DER as a secret': [`${hs256}.${macOf(der)}`, 'WRONG_ORDER_ALGORITHM'],
      'a known key of another algorithm': [sign({}, {}, edwards), 'WRONG_ORDER_ALGORITHM'],
      'a known key under another algorithm': [sign({}, { alg: 'ES256' }, edwards), 'WRONG_ORDER_ALGORITHM'],
      'a stranger': [sign({}, {}, stranger), 'UNKNOWN_ORDER_KEY'],
      'no key': [sign({}, { kid: undefined }), 'UNKNOWN_ORDER_KEY'],
      'a stranger under a known name': [sign({}, { kid: key.kid }, stranger), 'BAD_ORDER_SIGNATURE'],
      'a known key under the name of another': [sign({}, { kid: next.kid }), 'BAD_ORDER_SIGNATURE'],
      edited: [`${header}.${encode({ ...order, execution: 3 })}.${signature}`, 'BAD_ORDER_SIGNATURE'],
      'half a signature': [`${header}.${payload}.${signature.slice(0, 43)}`, 'BAD_ORDER_SIGNATURE'],
      'another device': [sign({ device: 'pump-2' }), 'ORDER_FOR_OTHER_DEVICE'],
      'another job': [sign({ job: 'b-job' }), 'ORDER_FOR_OTHER_JOB'],
      'an earlier attempt': [sign({ execution: 1 }), 'ORDER_FOR_OTHER_ATTEMPT'],
      'a later attempt': [sign({ execution: 3 }), 'ORDER_FOR_OTHER_ATTEMPT'],
      'another manifest': [sign({ manifest: 'ab'.repeat(32) }), 'ORDER_FOR_OTHER_MANIFEST'],
      'a digest in capitals': [sign({ manifest: order.manifest.toUpperCase() }), 'ORDER_FOR_OTHER_MANIFEST'],
    };
    const said = Object.entries(refusals).map(([name, [jws]]) => [name, verdict(jws)]);
    const expected = Object.entries(refusals).map(([name, [, code]]) => [name, code]);
    expect(Object.fromEntries(said)).toEqual(Object.fromEntries(expected));
  });

  test('while it is good, by a clock that is ten minutes off at most', () => {
    const jws = sign();
    const after = (seconds: number) => verdict(jws, { nowMs: nowMs + seconds * 1_000 });
    expect([after(-600), after(3_600), after(3_600 + 599)]).toEqual([undefined, undefined, undefined]);
    expect([after(-601), after(3_600 + 600)]).toEqual(['ORDER_NOT_YET', 'ORDER_EXPIRED']);
    expect([after(-now), after(100 * 365 * 86_400)]).toEqual(['ORDER_NOT_YET', 'ORDER_EXPIRED']);
  });

  test('or says both times, so that one sees which clock is wrong', () => {
    const late = { ...intended, nowMs: nowMs + 86_400_000 };
    expect(() => requireOrder(sign(), keys, late)).toThrow(/2027-01-01T01:00:00.000Z.*2027-01-02T00:00:00.000Z/);
    const never = sign({ issuedAt: Number.MAX_SAFE_INTEGER, expiresAt: Number.MAX_SAFE_INTEGER });
    expect(verdict(never)).toBe('ORDER_NOT_YET');
  });
});
