import { randomUUIDv7 } from 'node:crypto';
import { setTimeout as pass } from 'node:timers/promises';
import type { Logger } from 'pino';
import type { Database } from '../db/client.ts';
import { openSessions, type SessionOpened, type SessionOpening } from '../db/session-openings.ts';
import {
  addSubscriptions,
  closeSessions,
  listOpenSessions,
  removeSubscriptions,
  type ClosedSession,
} from '../db/sessions.ts';
import { deviceConnected, provisionDeviceId } from '../workflows/provision-device.ts';
import type { RefusalDetail } from '../workflows/refusals.ts';
import { rotateCertificateId } from '../workflows/rotate-certificate.ts';
import type { Availability } from './availability.ts';
import { createBatches } from './batches.ts';
import { describeIdentity, type Identity } from './identity.ts';
import type { Listener } from './listener.ts';
import type { ConnectRequest, ConnectRefused, Connected, DisconnectReason, Session } from './messages.ts';
import type { Introduce } from './newcomers.ts';
import type { RefusalLog } from './refusals.ts';
import type { Wire } from './wire.ts';

export type SessionsDeps = {
  db: Database;
  gatewayId: string;
  availability: Availability;
  wire: Pick<Wire, 'tell'>;
  refusals: RefusalLog;
  log: Pick<Logger, 'error' | 'info'>;
  /** How long a device may be away before it counts as disconnected. */
  debounceMs: number;
  sessionsPerIdentityMax?: number;
  /** How long a client waits for its CONNACK before it is told that the server is unavailable. */
  connectMaxMs?: number;
};

export type SessionsListener = {
  /** Something was committed that others may want to know of soon. */
  activated?: () => void;
  /** Asked about a certificate that no row knows. */
  introduce?: Introduce;
};

const clientIdBytesMax = 128;
const signal = {
  name: deviceConnected.name,
  workflowIdPrefix: provisionDeviceId(''),
  rotationIdPrefix: rotateCertificateId(''),
};

/**
 * Sessions as rows. A session is a row before the CONNACK, its subscriptions before the SUBACK, and every gateway may
 * take it over: whoever holds the highest epoch is it, and the others close when they notice.
 */
export function createSessions(
  deps: SessionsDeps,
  { activated = () => {}, introduce = async () => 'stranger' }: SessionsListener = {},
) {
  const { db, gatewayId, availability, wire, refusals, log, debounceMs } = deps;
  const { sessionsPerIdentityMax = 100, connectMaxMs = 4_000 } = deps;
  const openings = createBatches<SessionOpening, SessionOpened>({
    name: 'connections',
    availability,
    log,
    itemsMax: 64,
    queueMax: 2_000,
    deadlineMs: 3_000,
    heldMaxMs: 2 * connectMaxMs,
    write: (items) => openSessions(db, { gatewayId, sessionsPerIdentityMax, signal, openings: items }),
  });
  const closings = createBatches<ClosedSession, undefined>({
    name: 'disconnections',
    availability,
    log,
    gatherMs: 20,
    queueMax: 200_000,
    heldMaxMs: 600_000,
    async write(items) {
      await closeSessions(db, items, { debounceMs });
      return items.map(() => undefined);
    },
  });

  async function connect(request: ConnectRequest): Promise<Connected | ConnectRefused> {
    if (!isClientId(request.clientId)) return { refused: 'bad-client-id', detail: 'the client id is not acceptable' };
    if (availability.away) return unavailable;
    const { fingerprint, connectionId, clientId, protocol, cleanStart, expirySeconds, address } = request;
    const opening = {
      connectionId,
      clientId,
      protocol,
      cleanStart,
      expirySeconds,
      address,
      fingerprint: Buffer.from(fingerprint).toString('hex'),
      eventId: randomUUIDv7(),
      auditId: randomUUIDv7(),
    };
    const row = await openInTime(opening);
    if (row?.refusal !== 'UnknownCertificate') return row ? admit(request, opening, row) : unavailable;
    const introduced = await introduce(request);
    if (introduced === 'stranger') return admit(request, opening, row);
    if (introduced !== 'enrolled') return refusedBy(introduced.refused);
    const known = await openInTime(opening);
    return known ? admit(request, opening, known) : unavailable;
  }

  async function openInTime(opening: SessionOpening): Promise<SessionOpened | undefined> {
    const opened = open(opening);
    const row = await Promise.race([opened, pass(connectMaxMs, undefined, { ref: false })]);
    if (row) return row;
    // The client is told so, and gone when its session is opened all the same.
    void opened.then((late) => late && closeLate(late, opening));
    return undefined;
  }

  async function open(opening: SessionOpening): Promise<SessionOpened | undefined> {
    let written = await openings.add(opening);
    // Another one in the same batch, or on another gateway, was first: what it did is to be seen now.
    if (written.outcome === 'committed' && written.result.refusal === 'Displaced') {
      written = await openings.add(opening);
    }
    return written.outcome === 'committed' ? written.result : undefined;
  }

  function closeLate({ refusal, identity, epoch }: SessionOpened, { clientId, expirySeconds }: SessionOpening): void {
    if (!refusal) void closings.add({ identity, clientId, epoch, reason: 'SERVER_ERROR', expirySeconds });
  }

  function admit(request: ConnectRequest, opening: SessionOpening, row: SessionOpened): Connected | ConnectRefused {
    const identity = identityOf(row);
    if (row.refusal || !identity) {
      const code = row.refusal ?? 'UnknownCertificate';
      const actor = identity ? describeIdentity(identity) : 'system/gateway';
      const subject = row.certificateId ? `certificate/${row.certificateId}` : `fingerprint/${opening.fingerprint}`;
      refusals.record(actor, { action: 'connection.refused', subject, data: { code, address: request.address } });
      return code === 'TooManySessions' || code === 'Displaced'
        ? unavailable
        : { refused: 'not-authorized', detail: code };
    }
    const { clientId, protocol, address, expirySeconds } = request;
    const { epoch, identity: key } = row;
    if (row.previousGatewayId) wire.tell({ close: { identityKey: key, clientId, epochBelow: epoch } });
    wire.tell({ events: true });
    if (row.activated) activated();
    return {
      session: { identity, key, clientId, epoch, protocol, address, expirySeconds },
      subscriptions: row.subscriptions,
    };
  }

  return {
    connect,

    /** Subscriptions of a session that outlives its connection are rows; those of others end with it. */
    async subscribing(session: Session, filters: Record<string, 0 | 1>): Promise<void> {
      if (session.expirySeconds === 0) return;
      if (!(await addSubscriptions(db, rowKey(session), filters))) throw new Error('the session is held elsewhere');
    },

    async unsubscribing(session: Session, filters: string[]): Promise<void> {
      if (session.expirySeconds === 0) return;
      if (!(await removeSubscriptions(db, rowKey(session), filters))) throw new Error('the session is held elsewhere');
    },

    closed(session: Session, reason: DisconnectReason): void {
      void closings.add({ ...rowKey(session), reason, expirySeconds: session.expirySeconds });
    },

    /**
     * Holds what is held here against the rows. A connection whose session has another epoch now, or was closed by
     * somebody who thought this gateway dead, is ended; a row that says open and is not held is closed.
     */
    async sweep(listener: Pick<Listener, 'held' | 'close'>): Promise<void> {
      const held = listener.held();
      const rows = await listOpenSessions(db, gatewayId);
      const recorded = new Set(rows.map(({ identity, clientId, epoch }) => nameOf(identity, clientId, epoch)));
      for (const session of held) {
        if (recorded.has(nameOf(session.key, session.clientId, session.epoch))) continue;
        listener.close({ identityKey: session.key, connection: session }, 'DUPLICATE_CLIENTID');
      }
      const here = new Set([...held, ...listener.held()].map((s) => nameOf(s.key, s.clientId, s.epoch)));
      for (const { identity, clientId, epoch, settled } of rows) {
        if (!settled || here.has(nameOf(identity, clientId, epoch))) continue;
        void closings.add({ identity, clientId, epoch, reason: 'CONNECTION_LOST', expirySeconds: null });
      }
    },

    /** What is closed by now is written by then. */
    async drain(): Promise<void> {
      await openings.drain();
      await closings.drain();
    },
  };
}

const rowKey = ({ key, clientId, epoch }: Session) => ({ identity: key, clientId, epoch });

const unavailable: ConnectRefused = { refused: 'unavailable', detail: 'the server is busy or has no database' };

/** What may be a yes later is no refusal to a client: many give up at one. */
const refusedBy = ({ code, status }: RefusalDetail): ConnectRefused =>
  status >= 500 || status === 429 ? unavailable : { refused: 'not-authorized', detail: code };

const nameOf = (identity: string, clientId: string, epoch: number) => `${identity} ${epoch} ${clientId}`;

/** Client ids become topic levels and rows: no wildcard, nothing that cannot be printed, and of a length. */
function isClientId(clientId: string): boolean {
  return Buffer.byteLength(clientId) <= clientIdBytesMax && !/[+#\p{Cc}\p{Cs}]/u.test(clientId);
}

function identityOf(row: SessionOpened): Identity | undefined {
  const { kind, certificateId, subject, deviceId, deviceName, claimId, template } = row;
  const certificate = { certificateId, notAfter: new Date(row.notAfterMs) };
  if (kind === 'service') return { kind, name: subject, ...certificate };
  if (kind === 'claim' && claimId && template) return { kind, claimId, template, ...certificate };
  if (kind === 'device' && deviceId && deviceName) return { kind, deviceId, name: deviceName, ...certificate };
  return undefined;
}
