import { eq } from 'drizzle-orm';
import { pino } from 'pino';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { publishRevocationList } from '../../activities/revocation-lists.ts';
import { revokeCertificate } from '../../db/certificates.ts';
import { probeFeed } from '../../db/feed.ts';
import { feedReceipts, revocationLists } from '../../db/revocation-schema.ts';
import { feed } from '../../db/schema.ts';
import { followFeed } from '../../gateway/feed.ts';
import { makeDatabase, type TestDatabase } from '../support/database.ts';
import { eventually } from '../support/eventually.ts';
import { createFleet, startTestGateway, type Fleet, type GatewayRig } from '../support/gateway.ts';

let database: TestDatabase;
let fleet: Fleet;
let gateway: GatewayRig;
beforeAll(async () => {
  database = await makeDatabase();
  fleet = await createFleet(database.db);
  gateway = await startTestGateway(fleet);
});
afterAll(async () => {
  await gateway[Symbol.asyncDispose]();
  await database[Symbol.asyncDispose]();
});

const revoke = (id: string) => revokeCertificate(database.db, { id, reason: 'keyCompromise', from: ['ACTIVE'] });
async function entryOf(certificateId: string): Promise<number> {
  const [row] = await database.db.select().from(feed).where(eq(feed.subject, certificateId));
  return row?.id ?? -1;
}
const receiptsOf = (feedId: number) => database.db.select().from(feedReceipts).where(eq(feedReceipts.feedId, feedId));

describe('an entry of the feed', () => {
  test('has a receipt of each gateway once what it held is closed, with how many that were', async () => {
    await using second = await startTestGateway(fleet);
    const device = await fleet.makeDevice();
    const clients = [await gateway.dial(device), await gateway.dial(device), await second.dial(device)];
    for (const [index, raw] of clients.entries()) await raw.connack({ clientId: `client-${index}` });
    await revoke(device.certificateId);
    const feedId = await entryOf(device.certificateId);
    const probe = () => probeFeed(database.db, { feedId, certificateId: device.certificateId });
    await eventually(async () => expect(await probe()).toEqual({ unheard: [], openSessions: 0 }));
    for (const { socket } of clients) expect(socket.destroyed || socket.readableEnded).toBe(true);
    const receipts = await receiptsOf(feedId);
    expect(new Map(receipts.map(({ gatewayId, closed }) => [gatewayId, closed]))).toEqual(
      new Map([
        [gateway.id, 2],
        [second.id, 1],
      ]),
    );
  });

  test('that says nothing against whom it names closes nobody, and has its receipt', async () => {
    const device = await fleet.makeDevice();
    const raw = await gateway.dial(device);
    await raw.connack();
    await database.db.insert(feed).values({ kind: 'certificate', subject: device.certificateId });
    const feedId = await entryOf(device.certificateId);
    await eventually(async () => expect(await receiptsOf(feedId)).toMatchObject([{ closed: 0 }]));
    raw.send({ cmd: 'pingreq' });
    expect(await raw.next('pingresp')).toBeDefined();
  });

  test('that came while a gateway could not look is found by its next look, however late', async () => {
    const device = await fleet.makeDevice();
    const raw = await gateway.dial(device);
    await raw.connack();
    let away = true;
    // As the database is away: the first statement of a look fails.
    const db = new Proxy(database.db, {
      get(target, name, receiver) {
        if (away) throw new Error('away');
        return Reflect.get(target, name, receiver) as unknown;
      },
    });
    const { listener } = gateway;
    const cut: string[] = [];
    const late = followFeed({
      db,
      gatewayId: gateway.id,
      listener: {
        held: listener.held,
        cut: async (which) => cut.push(which.certificateId ?? ''),
      },
      log: pino({ level: 'silent' }),
      everyMs: 20,
      // Nothing but what happened since the last look that went well.
      overlapMs: 0,
    });
    await revoke(device.certificateId);
    await raw.closed;
    away = false;
    await eventually(async () => expect((await receiptsOf(await entryOf(device.certificateId))).length).toBe(1));
    await late.stop();
  });
});

describe('a revocation list', () => {
  test.each([
    ['missing', () => database.db.delete(revocationLists)],
    ['stale', () => database.db.update(revocationLists).set({ nextUpdate: new Date(0), publishedAt: new Date(0) })],
    ['corrupt', () => database.db.update(revocationLists).set({ der: Buffer.from('not a list') })],
  ])('that is %s lets nobody in, and locks nobody out', async (_, spoil) => {
    const [good, revoked] = [await fleet.makeDevice(), await fleet.makeDevice()];
    await revoke(revoked.certificateId);
    await publishRevocationList(database.db, fleet.authority);
    await spoil();
    await using restarted = await startTestGateway(fleet);
    for (const door of [gateway, restarted]) {
      expect(await (await door.dial(good)).connack()).toMatchObject({ reasonCode: 0 });
      expect(await (await door.dial(revoked)).connack()).toMatchObject({ reasonCode: 0x87 });
    }
  });
});
