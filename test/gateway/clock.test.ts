import { afterAll, afterEach, beforeAll, describe, expect, test, vi } from 'vitest';
import { createClock } from '../../gateway/clock.ts';
import { makeDatabase, type TestDatabase } from '../support/database.ts';
import { createFleet, startTestGateway, type Fleet } from '../support/gateway.ts';

let database: TestDatabase;
let fleet: Fleet;
beforeAll(async () => {
  database = await makeDatabase();
  fleet = await createFleet(database.db);
});
afterEach(() => void vi.useRealTimers());
afterAll(() => database[Symbol.asyncDispose]());

const yearMs = 365 * 86_400_000;

describe('the time by which certificates end', () => {
  const at = 1_800_000_000_000;
  /** Both clocks show the same, until one of them jumps. */
  function makeClock() {
    let [wall, monotonic] = [at, 5_000];
    const clock = createClock({ wallMs: () => wall, monotonicMs: () => monotonic });
    clock.heard(new Date(at));
    const pass = (ms: number) => ([wall, monotonic] = [wall + ms, monotonic + ms]);
    return { clock, pass, jump: (ms: number) => (wall += ms) };
  }

  test('is that of both clocks while they agree', () => {
    const { clock, pass } = makeClock();
    pass(60_000);
    expect([clock.agreedMs(), clock.aheadMs()]).toEqual([at + 60_000, 0]);
  });

  test('stays when this machine jumps a year ahead, and says by how much', () => {
    const { clock, jump } = makeClock();
    jump(yearMs);
    expect([clock.agreedMs(), clock.aheadMs()]).toEqual([at, yearMs]);
  });

  test('stays when the database jumps a year ahead', () => {
    const { clock } = makeClock();
    clock.heard(new Date(at + yearMs));
    expect([clock.agreedMs(), clock.aheadMs()]).toEqual([at, -yearMs]);
  });

  test('waits when either falls back a day, and goes on when it is right again', () => {
    const { clock, jump } = makeClock();
    jump(-86_400_000);
    expect(clock.agreedMs()).toBe(at - 86_400_000);
    jump(86_400_000);
    clock.heard(new Date(at - 86_400_000));
    expect(clock.agreedMs()).toBe(at - 86_400_000);
    clock.heard(new Date(at));
    expect(clock.agreedMs()).toBe(at);
  });
});

test('a gateway whose clock jumps a year ahead keeps its connections, and ends those whose time has come once it is right', async () => {
  await using gateway = await startTestGateway(fleet);
  const [lasting, ending] = [
    await fleet.makeDevice(),
    await fleet.makeDevice({ notAfter: new Date(Date.now() + 3_000) }),
  ];
  const [one, other] = [await gateway.dial(lasting), await gateway.dial(ending)];
  for (const raw of [one, other]) expect(await raw.connack()).toMatchObject({ reasonCode: 0 });
  vi.useFakeTimers({ toFake: ['Date'], now: Date.now() + yearMs });
  // The watch looks at both in the same turn: when it has ended the one, it has judged the other by the same time.
  await other.closed;
  one.send({ cmd: 'pingreq' });
  expect(await one.next('pingresp')).toBeDefined();
  expect(gateway.listener.held().map(({ identity }) => identity.certificateId)).toEqual([lasting.certificateId]);
});
