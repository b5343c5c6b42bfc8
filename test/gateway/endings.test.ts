import { randomUUIDv7 } from 'node:crypto';
import { setTimeout as pass } from 'node:timers/promises';
import { pino } from 'pino';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { createAvailability } from '../../gateway/availability.ts';
import { listen } from '../../gateway/listener.ts';
import type { Hooks, Session } from '../../gateway/messages.ts';
import { makeDatabase } from '../support/database.ts';
import { eventually } from '../support/eventually.ts';
import { createFleet, type Fleet } from '../support/gateway.ts';
import { openRaw } from '../support/raw-mqtt.ts';

const rig = new AsyncDisposableStack();
let fleet: Fleet;
beforeAll(async () => void (fleet = await createFleet(rig.use(await makeDatabase()).db)));
afterAll(() => rig.disposeAsync());

const quiet = pino({ level: 'silent' });

test('nobody is told of the subscriptions of a connection after its end', async () => {
  const { server, authority } = fleet;
  const { certificate: cert, privateKey: key } = await fleet.makeDevice();
  const opened = new Set<string>();
  const ended = new Set<string>();
  const late: string[] = [];
  const hooks: Hooks = {
    async connect({ clientId, protocol, connectionId }) {
      opened.add(clientId);
      const named = { kind: 'device', deviceId: clientId, name: clientId, certificateId: '' };
      const identity = { ...named, notAfter: new Date(Date.now() + 60_000) };
      const known = { identity, key: `device/${clientId}`, clientId, epoch: 1, protocol, connectionId };
      // What is left out is nothing that the listener asks for.
      const session = { ...known, expirySeconds: 0 } as unknown as Session;
      return { session, subscriptions: { news: 1 } };
    },
    may: () => true,
    denied() {},
    publish: async () => ({ outcome: 'committed' }),
    async subscribing() {},
    subscribed({ clientId }) {
      if (ended.has(clientId)) late.push(clientId);
    },
    async unsubscribing() {},
    closed: ({ clientId }) => void ended.add(clientId),
  };
  const tls = { ...server, authoritiesPem: [authority.rootPem, authority.certificatePem] };
  await using listener = await listen({ host: '127.0.0.1', port: 0, tls, hooks, log: quiet });
  const { port } = listener;

  /** A client that resumes its session, subscribes, and is gone after so many milliseconds. */
  async function visit(afterMs: number): Promise<void> {
    const raw = await openRaw({ host: '127.0.0.1', servername: 'localhost', port, ca: authority.rootPem, cert, key });
    void raw.connack({ clientId: randomUUIDv7(), clean: false });
    raw.send({ cmd: 'subscribe', messageId: 1, subscriptions: [{ topic: 'more', qos: 1 }] });
    await pass(afterMs);
    raw.socket.destroy();
  }
  for (let round = 0; round < 10; round += 1) {
    await Promise.all(Array.from({ length: 10 }, (_, index) => visit(index)));
  }
  await eventually(() => opened.size > 0 && [...opened].every((clientId) => ended.has(clientId)));
  expect(late).toEqual([]);
});

test('a gateway that has stopped lets nobody try again', async () => {
  const availability = createAvailability({ probe: async () => {}, pause() {}, resume() {}, log: quiet });
  availability.lost(new Error('away'));
  await availability.back();
  availability.stop();
  availability.lost(new Error('away for good'));
  expect(await Promise.race([availability.back().then(() => 'again'), pass(50, 'never')])).toBe('never');
});
