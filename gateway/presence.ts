import type { Logger } from 'pino';
import type { Database } from '../db/client.ts';
import { findEventsEnd, listEventsAfter, type EventPosition, type EventRow } from '../db/events.ts';
import { settlePresence } from '../db/presence.ts';
import type { Listener } from './listener.ts';
import type { Message } from './messages.ts';
import { createPeriodic, type Periodic } from './periodic.ts';
import { fill, topics } from './topics.ts';
import type { Wire } from './wire.ts';

export type PresenceDeps = {
  db: Database;
  listener: Pick<Listener, 'held' | 'notify'>;
  wire: Pick<Wire, 'tell'>;
  log: Pick<Logger, 'warn'>;
  everyMs?: number;
};

const perRound = 100;
const slowestMs = 2_000;
const connected = 'device.connected';
const disconnected = 'device.disconnected';

/** Judges closed sessions when their debounce is over. Every gateway does, and a check is judged by one of them. */
export function settleDisconnects({ db, wire, log, everyMs = 1_000 }: Omit<PresenceDeps, 'listener'>): Periodic {
  return createPeriodic({
    name: 'settling presence',
    everyMs,
    log,
    async work() {
      const settled = await settlePresence(db, perRound);
      if (settled > 0) wire.tell({ events: true });
      return settled === perRound;
    },
  });
}

/**
 * Tells applications that are connected here who has come and gone, from the moment on that the first of them connected.
 * They are told in the order of commits, at least once, and know by the version which of two is later.
 */
export function tellPresence({ db, listener, log, everyMs = 1_000 }: Omit<PresenceDeps, 'wire'>): Periodic {
  let position: EventPosition | undefined;

  async function tell(): Promise<boolean> {
    const services = new Set(
      listener.held().flatMap(({ identity, key }) => (identity.kind === 'service' ? [key] : [])),
    );
    if (services.size === 0) position = undefined;
    else position ??= await findEventsEnd(db);
    if (!position) return false;
    const events = await listEventsAfter(db, position, [connected, disconnected], perRound);
    const told = events.flatMap((event) => [...services].map((key) => listener.notify(key, messageOf(event))));
    const last = events.at(-1);
    if (last) position = { xid: last.xid, id: last.id };
    // An application that does not keep up loses events; it does not hold up the others for longer than this.
    await Promise.race([Promise.all(told), pass(slowestMs)]);
    return events.length === perRound;
  }

  return createPeriodic({ name: 'telling presence', everyMs, work: tell, log });
}

const pass = (ms: number) => new Promise<void>((resolve) => setTimeout(resolve, ms));

/** AWS's life cycle events; times in milliseconds. Connect and disconnect of one session share the version. */
function messageOf({ kind, deviceId, data, atMs }: EventRow): Message {
  const { clientId, version, certificateId, address, reason } = data;
  const isConnect = kind === connected;
  const body = {
    clientId,
    timestamp: Math.round(atMs),
    eventType: isConnect ? 'connected' : 'disconnected',
    sessionIdentifier: `${deviceId}/${String(version)}`,
    principalIdentifier: certificateId,
    versionNumber: version,
    ...(isConnect
      ? { ipAddress: address }
      : { clientInitiatedDisconnect: reason === 'CLIENT_INITIATED_DISCONNECT', disconnectReason: reason }),
  };
  const { pattern } = isConnect ? topics.presenceConnected : topics.presenceDisconnected;
  // One level of the topic, whatever the client id holds; the body has it as it is.
  const client = String(clientId).replaceAll('/', '%2F');
  return { topic: fill(pattern, { client }), payload: Buffer.from(JSON.stringify(body)), qos: 1 };
}
