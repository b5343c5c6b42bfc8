import type { Logger } from 'pino';
import type { Database } from '../db/client.ts';
import { markDelivered } from '../db/command-targets.ts';
import { claimDueCommands, type DueCommand, type Ready } from '../db/orders.ts';
import { judgeFailure } from '../db/outcomes.ts';
import type { Availability } from './availability.ts';
import { createBatches } from './batches.ts';
import { matchesFilter } from './filters.ts';
import type { Listener } from './listener.ts';
import type { Message, Session } from './messages.ts';
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
  const waiting = new Set<Ear>();
  let claiming = false;
  const deliveries = createBatches<string, undefined>({
    name: 'deliveries',
    write: async (executionIds) => {
      await markDelivered(db, executionIds);
      return executionIds.map(() => undefined);
    },
    availability,
    log,
  });

  function offer(ear: Ear): void {
    waiting.add(ear);
    if (claiming) return;
    claiming = true;
    void claim();
  }

  async function claim(): Promise<void> {
    for (let round = take(); round.length > 0; round = take()) {
      try {
        const due = await claimDueCommands(db, round.map(readyOf));
        const told = Map.groupBy(due, ({ deviceId }) => deviceId);
        for (const ear of round) {
          ear.more = (told.get(ear.deviceId)?.length ?? 0) + ear.unacknowledged >= unacknowledgedMax;
        }
        for (const command of due) void tell(command);
      } catch (error) {
        if (judgeFailure(error) === 'fault') {
          log.error({ err: error }, 'due commands could not be claimed');
          continue;
        }
        for (const ear of round) waiting.add(ear);
        availability.lost(error);
        await availability.back();
      }
    }
    claiming = false;
  }

  /** The next devices to look at: those that are still here and may be told more. */
  function take(): Ear[] {
    const round: Ear[] = [];
    for (const ear of waiting) {
      waiting.delete(ear);
      if (ear.unacknowledged >= unacknowledgedMax) ear.more = true;
      else if (ear.sessions.size > 0) round.push(ear);
      if (round.length === devicesPerClaim) break;
    }
    return round;
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
    if (ear.more) offer(ear);
    if (acknowledged) await deliveries.add(command.executionId);
  }

  const sweep = setInterval(() => ears.forEach(offer), sweepEveryMs).unref();
  wire.hear((hint) => {
    if (!('orders' in hint)) return;
    for (const deviceId of hint.orders) {
      const ear = ears.get(deviceId);
      if (ear) offer(ear);
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
      offer(ear);
    },
    closed: (session: Session): void => {
      if (session.identity.kind !== 'device') return;
      const ear = ears.get(session.identity.deviceId);
      ear?.sessions.delete(session);
      if (ear?.sessions.size === 0) ears.delete(ear.deviceId);
    },
    async drain(): Promise<void> {
      clearInterval(sweep);
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
