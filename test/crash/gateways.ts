import { sql } from 'drizzle-orm';
import type { MqttClient } from 'mqtt';
import { dial } from '../../embedded/device-connection.ts';
import { eventually } from '../support/eventually.ts';
import type { System } from '../support/system.ts';
import type { Enrolled } from './devices.ts';
import { deadAfterSeconds, type Rig } from './rig.ts';

export type Client = {
  client: MqttClient;
  port: number;
  /** Why the server ended it, as an MQTT 5 reason code; undefined when it did not say. */
  ended: Promise<number | undefined>;
};

/** Connects the device to the gateway at this port, under its own name, for as long as the connection lasts. */
export async function connectAs({ mqtt }: System, { name, ...credentials }: Enrolled, port: number): Promise<Client> {
  const session = { clientId: name, protocolVersion: 5 as const, sessionSeconds: 3_600 };
  const { signal } = new AbortController();
  const client = await dial({ ...mqtt, port }, { ...credentials, ...session }, signal);
  let told: number | undefined;
  client.on('disconnect', ({ reasonCode }) => (told = reasonCode));
  const ended = new Promise<number | undefined>((resolve) => client.once('close', () => resolve(told)));
  return { client, port, ended };
}

type SessionState = { epoch: number; closedAt: string | null; reason: string | null; port: number; connected: boolean };

/** The device's session, the port of the gateway that has it, and whether the device counts as connected. */
export async function sessionOf({ system: { db } }: Rig, { name }: Enrolled): Promise<SessionState | undefined> {
  const [row] = await db.execute<SessionState>(sql`
    select s.epoch::float8 as epoch, s.closed_at as "closedAt", s.reason, p.connected,
      substring(g.address from '[0-9]+$')::int as port
    from sessions s join devices d on d.id = s.device_id join presence p on p.device_id = d.id
      join gateways g on g.id = s.gateway_id
    where d.name = ${name}`);
  return row;
}

/** The gateways that hold open sessions of devices, how many, and how many of these devices count as connected. */
export const listHolders = async ({ system: { db } }: Rig) => [
  ...(await db.execute<{ port: number; sessions: number; connected: number }>(sql`
    select substring(g.address from '[0-9]+$')::int as port, count(*)::int as sessions,
      count(*) filter (where p.connected)::int as connected
    from sessions s join gateways g on g.id = s.gateway_id join presence p on p.device_id = s.device_id
    where s.closed_at is null group by 1 order by 1`)),
];

/** The names of the devices that were ever told as disconnected, in order. */
export async function listDisconnected({ system: { db } }: Rig): Promise<string[]> {
  const rows = await db.execute<{ name: string }>(sql`
    select d.name from events e join devices d on d.id = e.device_id
    where e.kind = 'device.disconnected' order by e.xid, e.id`);
  return rows.map(({ name }) => name);
}

/** When the gateway at this port last said that it lives, in seconds by the database's clock. */
export async function beatOf({ system: { db } }: Rig, port: number | undefined): Promise<number> {
  const [row] = await db.execute<{ at: number }>(sql`
    select extract(epoch from beat_at)::float8 as at from gateways
    where substring(address from '[0-9]+$')::int = ${port ?? 0} order by started_at desc limit 1`);
  return row?.at ?? 0;
}

/** Every gateway that lives has seen the database for so long from now on that it may judge, and has. */
export async function bothJudge({ system: { db, gateways } }: Rig): Promise<void> {
  const listBeats = () =>
    db.execute<{ ms: number }>(sql`
      select extract(epoch from beat_at)::float8 * 1000 as ms from gateways where stopped_at is null`);
  const start = Math.max(...(await listBeats()).map(({ ms }) => ms));
  await eventually(
    async () => {
      const fresh = (await listBeats()).filter(({ ms }) => ms > start + deadAfterSeconds * 1_000 + 1_000);
      return fresh.length === gateways.length;
    },
    { withinMs: 60_000 },
  );
}
