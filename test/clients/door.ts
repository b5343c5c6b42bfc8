import { randomBytes } from 'node:crypto';
import { eq, sql } from 'drizzle-orm';
import type { MqttClient } from 'mqtt';
import { templates } from '../../db/enrolment-schema.ts';
import { audit } from '../../db/schema.ts';
import { localWire } from '../../gateway/wire.ts';
import { createFleet, startTestGateway, type Credentials, type Fleet, type GatewayRig } from '../support/gateway.ts';
import { makeDatabase } from '../support/database.ts';
import { startLifecycle } from '../support/lifecycle.ts';

export type Answer = { accepted: boolean; body: Record<string, unknown> };
export type Claim = Awaited<ReturnType<Fleet['makeClaim']>>;

export type Door = AsyncDisposable & {
  fleet: Fleet;
  gateway: GatewayRig;
  /** What the API says after it has recorded a command. */
  hint(deviceId: string): void;
  /** A claim of a template of its own: names are `pump-${serial}`. */
  makeLine(options?: { serverMadeKeys?: boolean }): Promise<Claim>;
  /** Codes and details of what this claim was refused, in order. */
  listRefusals(claim: Claim): Promise<{ code: string; detail: string }[]>;
  /** What this device was refused, as `publish <topic>`, sorted. The entries are written up to a second later. */
  listTopicRefusals(deviceName: string): Promise<string[]>;
  /** How many rows there are of what a request may make. Equal before and after: nothing was half done. */
  countRows(): Promise<Record<string, number>>;
};

/** A gateway and a lifecycle worker in this process, with real rows, for what comes in by MQTT. */
export async function openDoor(): Promise<Door> {
  await using opening = new AsyncDisposableStack();
  const { db } = opening.use(await makeDatabase());
  const fleet = await createFleet(db);
  const temporal = opening.use(await startLifecycle(fleet));
  const wire = localWire();
  const gateway = opening.use(await startTestGateway(fleet, { temporal, wire }));
  const resources = opening.move();
  return {
    fleet,
    gateway,
    hint: (deviceId) => wire.tell({ orders: [deviceId] }),
    async makeLine({ serverMadeKeys = false } = {}) {
      const template = `line-${randomBytes(4).toString('hex')}`;
      const claim = await fleet.makeClaim({ template });
      const definition = {
        namePattern: 'pump-${serial}',
        parameters: ['serial'],
        attributes: {},
        configuration: {},
        lifetimeDays: 365,
        serverMadeKeys,
      };
      await db.update(templates).set({ definition }).where(eq(templates.name, template));
      return claim;
    },
    async listRefusals({ claimId }) {
      const entries = await db
        .select()
        .from(audit)
        .where(eq(audit.subject, `claim/${claimId}`))
        .orderBy(audit.id);
      const refused = entries.filter(({ action }) => action === 'enrolment.refused');
      return refused.map(({ data }) => ({ code: String(data['code']), detail: String(data['detail']) }));
    },
    async listTopicRefusals(deviceName) {
      const entries = await db
        .select()
        .from(audit)
        .where(eq(audit.subject, `device/${deviceName}`));
      const refused = entries.filter(({ action }) => action === 'topic.refused');
      return refused.map(({ data }) => `${String(data['action'])} ${String(data['topic'])}`).toSorted();
    },
    async countRows() {
      const [counts] = await db.execute<Record<string, number>>(sql`select
        (select count(*) from devices)::int as devices,
        (select count(*) from certificates)::int as certificates,
        (select count(*) from enrolments)::int as enrolments,
        (select count(*) from enrolments where state <> 'ISSUED')::int as registrations,
        (select count(*) from ownership_tokens)::int as tokens,
        (select coalesce(sum(uses), 0) from claims)::int as uses,
        (select count(*) from command_transitions)::int as transitions,
        (select count(*) from quarantine)::int as quarantined`);
      return { ...counts };
    },
    [Symbol.asyncDispose]: () => resources.disposeAsync(),
  };
}

export type Visitor = {
  client: MqttClient;
  /** Publishes bytes, or an object as JSON, and waits for the one answer. It never subscribes: answers come anyway. */
  ask(topic: string, body: unknown): Promise<Answer>;
};

export async function visit({ gateway }: Door, credentials: Credentials, protocolVersion: 4 | 5 = 5): Promise<Visitor> {
  const clientId = `visitor-${randomBytes(4).toString('hex')}`;
  const client = await gateway.connect(credentials, { clientId, protocolVersion });
  return {
    client,
    async ask(topic, body) {
      const { promise, resolve, reject } = Promise.withResolvers<Answer>();
      const hear = (heard: string, payload: Buffer) =>
        resolve({ accepted: /\/accepted\b/.test(heard), body: JSON.parse(payload.toString()) as Answer['body'] });
      const cut = () => reject(new Error('the connection ended before the answer'));
      client.once('message', hear).once('close', cut);
      const bytes = Buffer.isBuffer(body) || typeof body === 'string' ? body : JSON.stringify(body);
      try {
        const [answer] = await Promise.all([promise, client.publishAsync(topic, bytes, { qos: 1 })]);
        return answer;
      } finally {
        client.off('message', hear).off('close', cut);
      }
    },
  };
}
