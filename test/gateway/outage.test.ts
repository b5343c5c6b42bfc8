import { setTimeout as pass } from 'node:timers/promises';
import { randomUUIDv7 } from 'node:crypto';
import { eq, ne } from 'drizzle-orm';
import { beatGateway } from '../../db/gateways.ts';
import { pino } from 'pino';
import { expect, test } from 'vitest';
import { connect, type Database } from '../../db/client.ts';
import { events, gateways, presence, sessions } from '../../db/schema.ts';
import { ownPostgres, type OwnPostgres } from '../support/database.ts';
import { createFleet, startTestGateway, type Fleet } from '../support/gateway.ts';

const deadAfterMs = 2_000;

/** Two gateways that judge quickly, on a Postgres that may be frozen or killed. */
async function rig(postgres: OwnPostgres) {
  const db = connect({ url: postgres.url });
  const fleet = await createFleet(db);
  const timing = { beatEveryMs: 200, deadAfterMs, debounceMs: 200, sweepEveryMs: 500 };
  const log = pino({ level: process.env['LOG_LEVEL'] ?? 'silent' });
  const other = connect({ url: postgres.url });
  const both = [
    await startTestGateway(fleet, { ...timing, log }),
    await startTestGateway({ ...fleet, db: other }, { ...timing, log }),
  ] as const;
  return {
    db,
    fleet,
    both,
    async [Symbol.asyncDispose]() {
      for (const gateway of both) await gateway[Symbol.asyncDispose]();
      await Promise.all([db, other].map(({ $client }) => $client.end({ timeout: 1 })));
    },
  };
}

test.each(['frozen', 'killed'] as const)(
  'while Postgres is %s newcomers are sent away, those there stay, and nobody is declared gone after it',
  { timeout: 60_000 },
  async (fate) => {
    await using postgres = await ownPostgres();
    await using parts = await rig(postgres);
    const { db, fleet, both } = parts;
    const [one, two] = both;
    const [device, newcomer] = [await fleet.makeDevice(), await fleet.makeDevice()];
    const raw = await one.dial(device);
    await raw.connack({ clientId: 'stays', keepalive: 1 });
    const ping = setInterval(() => raw.send({ cmd: 'pingreq' }), 500);
    await bothHaveSeen(db, deadAfterMs);
    const third = await holdElsewhere(db, fleet);

    if (fate === 'frozen') await postgres.freeze();
    else await postgres.kill();
    expect(await dialOnce(two, newcomer, 5)).toMatchObject({ reasonCode: 0x88 });
    await expect.poll(() => one.availability.away && two.availability.away, { timeout: 10_000 }).toBe(true);
    // Known to be away by now: told at once.
    const started = performance.now();
    expect(await dialOnce(two, newcomer, 4)).toMatchObject({ returnCode: 3 });
    expect(performance.now() - started).toBeLessThan(1_000);
    raw.send({
      cmd: 'publish',
      topic: `$aws/commands/things/${device.name}/executions/x/response/json`,
      payload: '{}',
      qos: 1,
      messageId: 1,
      dup: false,
      retain: false,
    });
    expect(one.availability.away).toBe(true);
    // Longer than a gateway may be silent: time itself is the condition.
    await pass(2 * deadAfterMs);
    if (fate === 'frozen') await postgres.thaw();
    else await postgres.start();

    await expect.poll(() => two.availability.away || one.availability.away, { timeout: 15_000 }).toBe(false);
    // The first gateways that are back see a beat of the third that is as old as the outage.
    await bothHaveSeen(db, 300);
    const beats = setInterval(() => void third.beat(), 200);
    expect(await raw.next('puback')).toMatchObject({ messageId: 1, reasonCode: 0 });
    expect(await dialOnce(two, await fleet.makeDevice(), 5)).toMatchObject({ reasonCode: 0 });
    await bothHaveSeen(db, 2 * deadAfterMs);
    clearInterval(ping);
    clearInterval(beats);
    expect(raw.socket.destroyed).toBe(false);
    const own = eq(presence.deviceId, device.deviceId);
    expect(await db.select().from(presence).where(own)).toMatchObject([{ connected: true }]);
    expect(await db.select().from(sessions).where(eq(sessions.deviceId, device.deviceId))).toMatchObject([
      { closedAt: null },
    ]);
    expect(await db.select().from(events).where(eq(events.kind, 'device.disconnected'))).toEqual([]);
    expect(await third.session()).toMatchObject([{ closedAt: null }]);
    for (const { id } of both) {
      expect(await db.select().from(gateways).where(eq(gateways.id, id))).toMatchObject([{ stoppedAt: null }]);
    }
  },
);

/** A third gateway, of which there are only the rows, and a session that it holds. */
async function holdElsewhere(db: Database, fleet: Fleet) {
  const id = randomUUIDv7();
  const { deviceId, certificateId } = await fleet.makeDevice();
  const key = { identity: `device/${deviceId}`, clientId: 'elsewhere' };
  const session = { ...key, deviceId, certificateId, gatewayId: id, protocol: 5, connectedAt: new Date() };
  await beatGateway(db, { id, address: 'elsewhere' });
  await db.insert(sessions).values(session);
  return {
    beat: () => beatGateway(db, { id, address: 'elsewhere' }),
    session: () => db.select().from(sessions).where(eq(sessions.deviceId, deviceId)),
  };
}

/** Both have beaten for so long from now on, so that they may judge again and have. */
async function bothHaveSeen(db: Database, ms: number): Promise<void> {
  const beats = async () =>
    (await db.select().from(gateways).where(ne(gateways.address, 'elsewhere'))).map(({ beatAt }) => beatAt.getTime());
  const start = Math.max(...(await beats()));
  await expect.poll(async () => Math.min(...(await beats())), { timeout: 30_000 }).toBeGreaterThan(start + ms);
}

async function dialOnce(
  gateway: Awaited<ReturnType<typeof startTestGateway>>,
  device: Parameters<typeof gateway.dial>[0],
  protocol: 4 | 5,
) {
  const raw = await gateway.dial(device, { protocol });
  return raw.connack({ clientId: `newcomer ${protocol}` });
}
