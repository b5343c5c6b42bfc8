import { eq } from 'drizzle-orm';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { claimFailures, claims } from '../../db/enrolment-schema.ts';
import { createClaimTokens, networkOf } from '../../doors/claim-tokens.ts';
import { findRefusal } from '../../workflows/refusals.ts';
import { openRig, type Rig } from './rig.ts';

let rig: Rig;
beforeAll(async () => void (rig = await openRig()), 120_000);
afterAll(() => rig[Symbol.asyncDispose]());

const tokens = (limits = {}, refuseAfterMs = 0) => createClaimTokens({ db: rig.db, limits, refuseAfterMs });
const judge = async (door: ReturnType<typeof tokens>, token: string, address: string) =>
  door.permit({ token, address }).catch(findRefusal);
const makeToken = async (part = {}) => rig.makeToken((await rig.makeTemplate()).template, part);

/** The same token with another character in its secret. */
const changed = (token: string) => token.slice(0, -2) + (token.at(-2) === 'A' ? 'B' : 'A') + token.slice(-1);
let networks = 0;
const freshAddress = () => `10.${(networks += 1)}.0.1`;

test('a token permits what its claim says', async () => {
  const { permit, token } = await makeToken();
  expect(await judge(tokens(), token, freshAddress())).toEqual(permit);
});

test('whatever is wrong with a token, the refusal has the same words and takes the same time', async () => {
  const { token } = await makeToken();
  const revoked = await makeToken();
  await rig.db.update(claims).set({ revokedAt: new Date() }).where(eq(claims.id, revoked.permit.claimId));
  const expired = await makeToken({ expiresAt: new Date(0) });
  const certificate = await rig.fleet.makeClaim();
  const unknown = token.replace(/^lhc_[0-9a-f]{8}/, 'lhc_00000000');
  const ofCertificate = `lhc_${certificate.claimId.replaceAll('-', '')}_${'A'.repeat(43)}`;
  const door = tokens({}, 150);
  const spent: number[] = [];
  const wrong = [
    changed(token),
    unknown,
    revoked.token,
    expired.token,
    ofCertificate,
    '',
    'x'.repeat(10_000),
    `${token} `,
  ];
  for (const bad of wrong) {
    const begun = performance.now();
    expect(await judge(door, bad, freshAddress())).toEqual({
      code: 'ClaimRefused',
      detail: 'the claim does not permit this',
      status: 401,
    });
    spent.push(performance.now() - begun);
  }
  expect(Math.min(...spent)).toBeGreaterThan(145);
  expect(Math.max(...spent) - Math.min(...spent)).toBeLessThan(100);
});

test('a claim that is used up is refused like a wrong token', async () => {
  const { permit } = await makeToken({ usesMax: 1 });
  await rig.enrol(permit, '1');
  const refused = await tokens()
    .conceal(() => rig.enrol(permit, '2'))
    .catch(findRefusal);
  expect(refused).toMatchObject({ code: 'ClaimRefused', detail: 'the claim does not permit this' });
});

test('a network that guesses is locked out whatever it shows, at every door, and a valid token elsewhere works', async () => {
  const { token, permit } = await makeToken();
  const limits = { failuresPerNetwork: 5 };
  const address = freshAddress();
  for (let guess = 0; guess < 5; guess += 1) {
    expect(await judge(tokens(limits), changed(token), address)).toMatchObject({ status: 401 });
  }
  expect(await judge(tokens(limits), token, address)).toMatchObject({ code: 'TooManyAttempts', status: 429 });
  expect(await judge(tokens(limits), token, address.replace(/1$/, '200'))).toMatchObject({ status: 429 });
  expect(await judge(tokens(limits), token, freshAddress())).toEqual(permit);
  await rig.db.update(claimFailures).set({ since: new Date(0) });
  expect(await judge(tokens(limits), token, address)).toEqual(permit);
});

test('a claim that is guessed at from many networks is wary of them, and of nobody else', async () => {
  const { token, permit } = await makeToken();
  const limits = { failuresPerClaim: 6 };
  const guessing = Array.from({ length: 6 }, freshAddress);
  for (const address of guessing) await judge(tokens(limits), changed(token), address);
  for (const address of guessing) {
    expect(await judge(tokens(limits), changed(token), address)).toMatchObject({ status: 429 });
  }
  expect(await judge(tokens(limits), token, freshAddress())).toEqual(permit);
});

test('who comes back with a token that is over does not count as guessing, and strangers make no rows', async () => {
  const { token, permit } = await makeToken({ expiresAt: new Date(0) });
  const address = freshAddress();
  const door = tokens({ failuresPerNetwork: 2 });
  for (let time = 0; time < 4; time += 1) expect(await judge(door, token, address)).toMatchObject({ status: 401 });
  const before = await rig.db.$count(claimFailures);
  await Promise.all(
    Array.from({ length: 30 }, () =>
      judge(door, `lhc_${crypto.randomUUID().replaceAll('-', '')}_${'A'.repeat(43)}`, address),
    ),
  );
  expect(await rig.db.$count(claimFailures)).toBeLessThanOrEqual(before + 1);
  expect(permit.claimId).toBeDefined();
});

test('only the hash of a token is kept', async () => {
  const { token } = await makeToken();
  const rows = JSON.stringify(await rig.db.select().from(claims), (_, value: unknown) =>
    value instanceof Uint8Array ? Buffer.from(value).toString('base64url') : value,
  );
  expect(rows).not.toContain(token.split('_').slice(2).join('_'));
});

test.each([
  ['192.0.2.77', 'network/192.0.2.0/24'],
  ['::ffff:192.0.2.77', 'network/192.0.2.0/24'],
  ['2001:db8:1:2ff::1', 'network/2001:db8:1:200::/56'],
  ['2001:db8::1', 'network/2001:db8:0:0::/56'],
  ['fe80::1%eth0', 'network/fe80:0:0:0::/56'],
  ['nonsense', 'network/unknown'],
])('%s is in %s', (address, network) => {
  expect(networkOf(address)).toBe(network);
});
