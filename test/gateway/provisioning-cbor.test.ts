import { X509Certificate } from 'node:crypto';
import { decode } from 'cbor-x';
import { eq } from 'drizzle-orm';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { templates } from '../../db/enrolment-schema.ts';
import type { Message, Session } from '../../gateway/messages.ts';
import { createProvisioning } from '../../gateway/provisioning.ts';
import { createRefusalLog } from '../../gateway/refusals.ts';
import { createRequests } from '../../gateway/requests.ts';
import { makeCsr, makeKeyPair } from '../../pki/keys.ts';
import { openRig, type Rig } from '../doors/rig.ts';
import { claimSession, noEffects, quiet } from './ear.ts';

let rig: Rig;
beforeAll(async () => void (rig = await openRig()), 120_000);
afterAll(() => rig[Symbol.asyncDispose]());

/*
 * The requests are built here as the serializer of AWS's embedded C demo builds them with TinyCBOR: maps of definite
 * length, texts as keys and values, lengths in their shortest form.
 */
const head = (major: number, length: number): Buffer => {
  if (length < 24) return Buffer.of((major << 5) | length);
  if (length < 256) return Buffer.of((major << 5) | 24, length);
  return Buffer.of((major << 5) | 25, length >> 8, length & 0xff);
};
const text = (value: string) => Buffer.concat([head(3, Buffer.byteLength(value)), Buffer.from(value)]);
const map = (entries: [string, Buffer][]) =>
  Buffer.concat([head(5, entries.length), ...entries.flatMap(([key, value]) => [text(key), value])]);

async function openDoor(part = {}) {
  const claim = await rig.fleet.makeClaim({ template: `cbor-${crypto.randomUUID().slice(0, 8)}` });
  const [row] = await rig.db.select().from(templates).where(eq(templates.name, claim.template));
  if (!row) throw new Error('the claim has no template');
  const definition = { ...row.definition, namePattern: 'pump-${SerialNumber}', parameters: ['SerialNumber'], ...part };
  await rig.db.update(templates).set({ definition }).where(eq(templates.name, claim.template));
  const told: Message[] = [];
  const listener = { answer: (_: Session, message: Message) => told.push(message) > 0 };
  const provisioning = createProvisioning({ db: rig.db, temporal: rig.temporal, log: quiet });
  const refusals = createRefusalLog({ db: rig.db, log: quiet, suppressed: () => {} });
  const { dispatch } = createRequests({ ...noEffects, provisioning, listener, refusals });
  const ask = async (topic: string, payload: Buffer) => {
    await dispatch(claimSession({ ...claim }), { topic, payload, qos: 1 });
    const answer = told.pop();
    expect(answer?.topic.startsWith(`${topic}/`)).toBe(true);
    return { to: answer?.topic.slice(topic.length + 1), body: decode(answer?.payload ?? Buffer.alloc(0)) as Answer };
  };
  return { ask, provision: `$aws/provisioning-templates/${claim.template}/provision/cbor` };
}
/** What the test reads of an answer; which of it is there, the assertion beside it says. */
type Answer = { certificatePem: string; certificateOwnershipToken: string; thingName: string; privateKey: string };

const createFromCsr = '$aws/certificates/create-from-csr/cbor';
const registration = (token: string, serial: string) =>
  map([
    ['certificateOwnershipToken', text(token)],
    ['parameters', map([['SerialNumber', text(serial)]])],
  ]);

test('a device that speaks CBOR enrols with its request and is registered', async () => {
  const { ask, provision } = await openDoor();
  const pair = makeKeyPair();
  const issued = await ask(createFromCsr, map([['certificateSigningRequest', text(makeCsr(pair))]]));
  expect(issued.to).toBe('accepted');
  const leaf = new X509Certificate(issued.body.certificatePem);
  expect(leaf.publicKey.export({ type: 'spki', format: 'pem' })).toBe(pair.publicKeyPem);
  const serial = crypto.randomUUID();
  const registered = await ask(provision, registration(issued.body.certificateOwnershipToken, serial));
  expect(registered).toEqual({ to: 'accepted', body: { thingName: `pump-${serial}`, deviceConfiguration: {} } });
});

test('keys are made for one that publishes nothing, where its template permits it', async () => {
  const { ask } = await openDoor({ serverMadeKeys: true });
  const { to, body } = await ask('$aws/certificates/create/cbor', Buffer.alloc(0));
  expect(to).toBe('accepted');
  expect(body.privateKey).toContain('PRIVATE KEY');
});

test.each([
  ['that is no CBOR', Buffer.from('{}x'), 'InvalidCbor'],
  ['that lacks its field', Buffer.of(0xa0), 'InvalidRequest'],
  ['that is too large', Buffer.alloc(70_000), 'InvalidRequest'],
  ['with a number in place of a text', map([['certificateSigningRequest', Buffer.of(5)]]), 'InvalidRequest'],
])('a request %s is rejected in CBOR', async (_, payload, errorCode) => {
  const { ask } = await openDoor();
  expect(await ask(createFromCsr, payload)).toMatchObject({ to: 'rejected', body: { statusCode: 400, errorCode } });
});

test('a device that waits for an operator is told to ask again, and gets the same enrolment when it does', async () => {
  const { ask, provision } = await openDoor({ approval: true });
  const request = map([['certificateSigningRequest', text(makeCsr(makeKeyPair()))]]);
  const first = await ask(createFromCsr, request);
  const { certificateOwnershipToken: token } = first.body;
  const asked = registration(token, crypto.randomUUID());
  for (let time = 0; time < 2; time += 1) {
    expect(await ask(provision, asked)).toMatchObject({
      to: 'rejected',
      body: { statusCode: 503, errorCode: 'WaitingForApproval' },
    });
  }
  const again = await ask(createFromCsr, request);
  expect(again.body.certificatePem).toBe(first.body.certificatePem);
  expect(await ask(provision, asked)).toMatchObject({ body: { errorCode: 'WaitingForApproval' } });
});
