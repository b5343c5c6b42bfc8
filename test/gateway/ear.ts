import { deviceKey, type Identity } from '../../gateway/identity.ts';
import type { Message, Session } from '../../gateway/messages.ts';
import type { RequestsDeps } from '../../gateway/requests.ts';
import { createAvailability } from '../../gateway/availability.ts';
import { matchesFilter } from '../../gateway/filters.ts';
import { probeWritable } from '../../db/outcomes.ts';
import type { Database } from '../../db/client.ts';

export const quiet = { error() {}, warn() {}, info() {}, debug() {} };

export const sessionOf = (
  device: { id: string; name: string },
  { clientId = 'client', protocol = 5 }: { clientId?: string; protocol?: 4 | 5 } = {},
): Session => ({
  identity: {
    kind: 'device',
    deviceId: device.id,
    name: device.name,
    certificateId: '0'.repeat(64),
    notAfter: new Date(Date.now() + 3_600_000),
  },
  key: deviceKey(device.id),
  clientId,
  epoch: 1,
  protocol,
  address: '127.0.0.1',
  expirySeconds: 0,
});

export const claimSession = (
  claim: Omit<Extract<Identity, { kind: 'claim' }>, 'kind' | 'notAfter'>,
  connection = 'one',
): Session => ({
  identity: { kind: 'claim', ...claim, notAfter: new Date(Date.now() + 3_600_000) },
  key: `claim/${claim.certificateId}/${connection}`,
  clientId: connection,
  epoch: 1,
  protocol: 5,
  address: '127.0.0.1',
  expirySeconds: 0,
});

/** The far end of the connections: keeps what they are told, and acknowledges when it is told to. */
export function createEar() {
  const answers: { session: Session; topic: string; body: Record<string, unknown> }[] = [];
  const told: { key: string; message: Message; acknowledge(taken: boolean): void }[] = [];
  const filters = new Map<string, string[]>();
  const ear = {
    answers,
    told,
    acknowledges: true,
    subscribe: (key: string, ...added: string[]) => void filters.set(key, [...(filters.get(key) ?? []), ...added]),
    unsubscribe: (key: string) => void filters.delete(key),
    answer(session: Session, { topic, payload }: Message) {
      answers.push({ session, topic, body: JSON.parse(Buffer.from(payload).toString()) });
      return true;
    },
    subscribedTo: (key: string, topic: string) =>
      (filters.get(key) ?? []).some((filter) => matchesFilter(filter, topic)),
    notify(key: string, message: Message) {
      const { promise, resolve } = Promise.withResolvers<boolean>();
      told.push({ key, message, acknowledge: resolve });
      if (ear.acknowledges) resolve(true);
      return promise;
    },
  };
  return ear;
}

export const availabilityOf = (db: Database) =>
  createAvailability({ probe: () => probeWritable(db), pause() {}, resume() {}, log: quiet });

/** Effects that a test does not ask for. A call to one would be a failure of its own. */
export const noEffects = { commands: {}, provisioning: {}, jobs: {}, software: {} } as unknown as Pick<
  RequestsDeps,
  'commands' | 'provisioning' | 'jobs' | 'software'
>;
