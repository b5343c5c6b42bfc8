import type { Logger } from 'pino';
import type { Database } from '../db/client.ts';
import { markDelivered } from '../db/command-targets.ts';
import { claimDueCommands, type DueCommand, type Ready } from '../db/orders.ts';
import type { Availability } from './availability.ts';
import { createBatches } from './batches.ts';
import { matchesFilter } from './filters.ts';
import type { Listener } from './listener.ts';
import type { Message, Session } from './messages.ts';
import { createRounds } from './rounds.ts';
import { fill, topics } from './topics.ts';
import type { Wire } from './wire.ts';

type OffersDeps = {
  db: Database;
  listener: Pick<Listener, 'notify' | 'subscribedTo'>;
  wire: Pick<Wire, 'hear'>;
  availability: Availability;
  log: Pick<Logger, 'error'>;
  /** How often all devices held here are looked at, for what no hint told of. */
  sweepEveryMs?: number;
  /** Commands that a device may have unacknowledged at a time. */
  unacknowledgedMax?: number;
};

/** A device that has subscribed to its commands here. */
type Ear = {
  deviceId: string;
  name: string;
  identityKey: string;
  sessions: Set<Session>;
  unacknowledged: number;
  /** There may be more for it than it could be told. */
  more: boolean;
};

const devicesPerClaim = 200;
const requestTopics = {
  json: topics.commandRequestJson,
  cbor: topics.commandRequestCbor,
  other: topics.commandRequest,
} as const;
type Format = keyof typeof requestTopics;
const formats: Format[] = ['json', 'cbor', 'other'];

/**
 * Tells devices their commands: when they subscribe, on a hint, and on a sweep that finds what no hint told of. What is
 * told stands in rows, so a device is told by the gateway that holds it and by one at a time, again and again with
 * growing pauses until it has answered, and never after the deadline.
 */
export function createOffers(deps: OffersDeps) {
  const { db, listener, wire, availability, log, sweepEveryMs = 15_000, unacknowledgedMax = 8 } = deps;
  const ears = new Map<string, Ear>();
  const deliveries = createBatches<string, undefined>({
    name: 'deliveries',
    write: async (executionIds) => {
      await markDelivered(db, executionIds);
      return executionIds.map(() => undefined);
    },
    availability,
    log,
  });

  const rounds = createRounds<Ear>({
    name: 'offering commands',
    work: claim,
    itemsMax: devicesPerClaim,
    availability,
    log,
  });

  async function claim(round: Ear[]): Promise<void> {
    const ready = round.filter(mayBeTold);
    if (ready.length === 0) return;
    const due = await claimDueCommands(db, ready.map(readyOf));
    const told = Map.groupBy(due, ({ deviceId }) => deviceId);
    for (const ear of ready) {
      ear.more = (told.get(ear.deviceId)?.length ?? 0) + ear.unacknowledged >= unacknowledgedMax;
    }
    for (const command of due) void tell(command);
  }

  /** One that is still here; one that has enough for now is looked at again when it has acknowledged some. */
  function mayBeTold(ear: Ear): boolean {
    if (ear.unacknowledged >= unacknowledgedMax) ear.more = true;
    return ear.unacknowledged < unacknowledgedMax && ear.sessions.size > 0;
  }

  const readyOf = (ear: Ear): Ready => ({
    deviceId: ear.deviceId,
    room: unacknowledgedMax - ear.unacknowledged,
    formats: formats.filter((format) => topicFor(ear, format, ear.deviceId) !== undefined),
  });

  /** The topic under which the device hears of this execution: by its name, else by the client id of a connection. */
  function topicFor(ear: Ear, format: Format, execution: string): string | undefined {
    const own = [{ targets: 'things', target: ear.name }];
    for (const { clientId } of ear.sessions) own.push({ targets: 'clients', target: clientId });
    return own
      .map((target) => fill(requestTopics[format].pattern, { ...target, execution }))
      .find((topic) => listener.subscribedTo(ear.identityKey, topic));
  }

  async function tell(command: DueCommand): Promise<void> {
    const ear = ears.get(command.deviceId);
    const topic = ear && topicFor(ear, command.format, command.executionId);
    if (!ear || !topic || command.leftMs <= 0) return;
    ear.unacknowledged += 1;
    const acknowledged = await listener.notify(ear.identityKey, messageOf(command, topic)).catch(() => false);
    ear.unacknowledged -= 1;
    if (ear.more) rounds.add(ear);
    if (acknowledged) await deliveries.add(command.executionId);
  }

  const sweep = setInterval(() => ears.forEach((ear) => rounds.add(ear)), sweepEveryMs).unref();
  wire.hear((hint) => {
    if (!('orders' in hint)) return;
    for (const deviceId of hint.orders) {
      const ear = ears.get(deviceId);
      if (ear) rounds.add(ear);
    }
  });

  return {
    /** Offers what is pending, once the session hears of commands. Also for the subscriptions that a session came with. */
    subscribed: (session: Session, filters: string[]): void => {
      const { identity, key, clientId } = session;
      if (identity.kind !== 'device' || !filters.some((filter) => hearsCommands(filter, identity.name, clientId)))
        return;
      const { deviceId, name } = identity;
      const ear = ears.get(deviceId) ?? newEar(deviceId, name, key);
      ears.set(deviceId, ear);
      ear.sessions.add(session);
      rounds.add(ear);
    },
    closed: (session: Session): void => {
      if (session.identity.kind !== 'device') return;
      const ear = ears.get(session.identity.deviceId);
      ear?.sessions.delete(session);
      if (ear?.sessions.size === 0) ears.delete(ear.deviceId);
    },
    async drain(): Promise<void> {
      clearInterval(sweep);
      await rounds.drain();
      await deliveries.drain();
    },
  };
}

const newEar = (deviceId: string, name: string, identityKey: string): Ear => {
  const nothing = { unacknowledged: 0, more: false };
  return { deviceId, name, identityKey, sessions: new Set(), ...nothing };
};

function hearsCommands(filter: string, name: string, clientId: string): boolean {
  const own = [
    { targets: 'things', target: name, execution: name },
    { targets: 'clients', target: clientId, execution: name },
  ];
  return own.some((params) =>
    formats.some((format) => matchesFilter(filter, fill(requestTopics[format].pattern, params))),
  );
}

/** MQTT 5 carries the time that is left in the message; for 3.1.1 the listener leaves the properties out. */
function messageOf({ payload, contentType, leftMs }: DueCommand, topic: string): Message {
  const messageExpiryInterval = Math.max(1, Math.floor(leftMs / 1_000));
  return { topic, payload, qos: 1, properties: { messageExpiryInterval, contentType } };
}
