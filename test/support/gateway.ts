import { createHash, createPublicKey, randomBytes, randomUUIDv7 } from 'node:crypto';
import { pino } from 'pino';
import { connect as connectMqtt, type IClientOptions, type MqttClient } from 'mqtt';
import { insertAuthority } from '../../db/authorities.ts';
import type { Database } from '../../db/client.ts';
import { claims, templates } from '../../db/enrolment-schema.ts';
import { certificates, devices } from '../../db/schema.ts';
import { startGateway, type Gateway, type GatewayDeps } from '../../gateway/gateway.ts';
import { localWire } from '../../gateway/wire.ts';
import { createAuthorities, openAuthority, type Authority } from '../../pki/authority.ts';
import { makeKeyPair } from '../../pki/keys.ts';
import { openRaw, type RawClient } from './raw-mqtt.ts';

/** A certificate with its key, PEM, as a client holds them. */
export type Credentials = { certificateId: string; certificate: string; privateKey: string };

export type Fleet = {
  db: Database;
  authority: Authority;
  rootId: string;
  rootKeyPem: string;
  /** The gateway's own certificate, for `localhost` and 127.0.0.1. */
  server: { certificatePem: string; privateKeyPem: string };
  makeDevice(options?: DeviceOptions): Promise<Credentials & { deviceId: string; name: string }>;
  makeService(name?: string): Promise<Credentials & { name: string }>;
  makeClaim(options?: {
    template?: string;
    usesMax?: number;
  }): Promise<Credentials & { claimId: string; template: string }>;
};

export type DeviceOptions = {
  name?: string;
  state?: 'PENDING_ACTIVATION' | 'ACTIVE' | 'REVOKED';
  deviceState?: 'REGISTERED' | 'ACTIVE' | 'BLOCKED';
  /** For how long the certificate is good; the authority itself issues none shorter than a month. */
  notAfter?: Date;
};

const dayMs = 86_400_000;

/** Authorities, and as many devices, claims and services as a test wants, in a database that has the schema. */
export async function createFleet(db: Database): Promise<Fleet> {
  const keyEncryptionKey = randomBytes(32);
  const { root, issuing } = await createAuthorities({ keyEncryptionKey });
  const rootId = randomUUIDv7();
  const id = randomUUIDv7();
  await insertAuthority(db, { ...root, id: rootId, kind: 'root', name: root.subject, state: 'ACTIVE' });
  await insertAuthority(db, {
    ...issuing,
    id,
    kind: 'issuing',
    name: issuing.subject,
    parentId: rootId,
    state: 'ACTIVE',
  });
  const authority = await openAuthority({
    id,
    keyEncryptionKey,
    rootPem: root.certificatePem,
    issuingPem: issuing.certificatePem,
    encryptedKey: issuing.encryptedKey,
  });

  async function issue(profile: 'device' | 'claim' | 'service' | 'server', subject: object) {
    const { publicKeyPem, privateKeyPem } = makeKeyPair();
    const certificateId = randomBytes(32).toString('hex');
    const publicKey = createPublicKey(publicKeyPem).export({ type: 'spki', format: 'der' });
    const request = { profile, certificateId, subject, publicKey, lifetimeMs: 90 * dayMs };
    // Each caller below gives the subject that its profile asks for.
    const issued = await authority.issue(request as Parameters<Authority['issue']>[0]);
    const { authorityId, serial, fingerprint, pem, notBefore, notAfter } = issued;
    const spkiSha256 = createHash('sha256').update(publicKey).digest();
    const row = { id: certificateId, authorityId, serial, fingerprint, pem, notBefore, notAfter, spkiSha256 };
    return { row, credentials: { certificateId, certificate: issued.chainPem, privateKey: privateKeyPem } };
  }

  const { credentials: own } = await issue('server', { server: ['localhost', '127.0.0.1'] });
  return {
    db,
    authority,
    rootId,
    rootKeyPem: root.privateKeyPem,
    server: { certificatePem: own.certificate, privateKeyPem: own.privateKey },
    async makeDevice({ name = `pump-${randomBytes(5).toString('hex')}`, ...options } = {}) {
      const { state = 'ACTIVE', deviceState = 'ACTIVE', notAfter } = options;
      const deviceId = randomUUIDv7();
      const { row, credentials } = await issue('device', { device: name });
      await db.insert(devices).values({ id: deviceId, name, state: deviceState });
      const given = { ...row, ...(notAfter && { notAfter }) };
      await db.insert(certificates).values({ ...given, kind: 'device', deviceId, subject: name, state });
      return { ...credentials, deviceId, name };
    },
    async makeService(name = `app-${randomBytes(4).toString('hex')}`) {
      const { row, credentials } = await issue('service', { service: name });
      await db.insert(certificates).values({ ...row, kind: 'service', subject: name, state: 'ACTIVE' });
      return { ...credentials, name };
    },
    async makeClaim({ template = 'default', usesMax = 100 } = {}) {
      const claimId = randomUUIDv7();
      const definition = {
        namePattern: 'pump-${serial}',
        parameters: ['serial'],
        attributes: {},
        configuration: {},
        lifetimeDays: 365,
        serverMadeKeys: false,
      };
      await db.insert(templates).values({ name: template, definition }).onConflictDoNothing();
      const { row, credentials } = await issue('claim', { claim: template });
      await db.insert(certificates).values({ ...row, kind: 'claim', subject: template, state: 'ACTIVE' });
      const budget = { usesMax, ratePerMinute: 1_000, rateLeft: 1_000, expiresAt: new Date(Date.now() + dayMs) };
      await db.insert(claims).values({ id: claimId, template, certificateId: row.id, ...budget });
      return { ...credentials, claimId, template };
    },
  };
}

export type GatewayRig = Gateway & {
  fleet: Fleet;
  /** A client that says exactly what it is told to. */
  dial(credentials: Credentials, options?: Parameters<typeof openRaw>[0]): Promise<RawClient>;
  /** Resolves with the CONNACK; rejects with its reason code in `code`. */
  connect(credentials: Credentials, options?: IClientOptions): Promise<MqttClient>;
  [Symbol.asyncDispose](): Promise<void>;
};

/** Temporal is not there: nothing that a device does on MQTT may depend on it, enrolment apart. */
// No member of it is used before a device enrols; the relay takes what it meets as an outage.
const noTemporal = { client: {}, namespace: 'none', taskQueue: 'none' } as unknown as GatewayDeps['temporal'];

/** A gateway in this process on a free port of 127.0.0.1. */
export async function startTestGateway(fleet: Fleet, options: Partial<GatewayDeps> = {}): Promise<GatewayRig> {
  const gateway = await startGateway({
    db: fleet.db,
    wire: localWire(),
    temporal: noTemporal,
    log: pino({ level: 'silent' }),
    forbiddenSpki: [],
    host: '127.0.0.1',
    port: 0,
    debounceMs: 300,
    tls: { ...fleet.server, authoritiesPem: [fleet.authority.rootPem, fleet.authority.certificatePem] },
    ...options,
  });
  const clients: MqttClient[] = [];
  const raws: RawClient[] = [];
  return {
    ...gateway,
    fleet,
    async connect({ certificate, privateKey }, clientOptions = {}) {
      const client = connectMqtt({
        protocol: 'mqtts',
        host: 'localhost',
        port: gateway.listener.port,
        ca: fleet.authority.rootPem,
        cert: certificate,
        key: privateKey,
        reconnectPeriod: 0,
        protocolVersion: 5,
        connectTimeout: 15_000,
        ...clientOptions,
      });
      clients.push(client);
      const { promise, resolve, reject } = Promise.withResolvers<MqttClient>();
      client.on('error', reject);
      client.once('connect', () => resolve(client));
      client.once('close', () => reject(new Error('closed before the CONNACK')));
      return promise;
    },
    async dial({ certificate, privateKey }, rawOptions = {}) {
      const raw = await openRaw({
        host: '127.0.0.1',
        servername: 'localhost',
        port: gateway.listener.port,
        ca: fleet.authority.rootPem,
        cert: certificate,
        key: privateKey,
        ...rawOptions,
      });
      raws.push(raw);
      return raw;
    },
    async [Symbol.asyncDispose]() {
      for (const { socket } of raws) socket.destroy();
      for (const client of clients) client.end(true);
      await gateway.drain({ graceMs: 500 });
    },
  };
}
