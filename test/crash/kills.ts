import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { enrolments } from '../../db/enrolment-schema.ts';
import { eventually } from '../support/eventually.ts';
import { streamCommands } from './commands.ts';
import { createFleet, enrolOnly, type Fleet } from './devices.ts';
import { bothJudge, connectAs, listHolders, listDisconnected, sessionOf } from './gateways.ts';
import { startRig, type Rig, type Wire } from './rig.ts';
import { allQuiet, expectEnrolledOnce, expectNothingLostOrDoubled } from './verdicts.ts';

const withinMs = 60_000;
const perWave = 5;

/** The same story with hints and without, but that no hint is told of an enrolment: what a part was doing when it was killed is done once, and nothing else. */
export function describeKills(wire: Wire): void {
  describe(`with ${wire === 'none' ? 'every hint lost' : 'hints'}, kill -9 in the middle`, () => {
    let rig: Rig;
    let fleet: Fleet;
    beforeAll(async () => {
      rig = await startRig({ wire });
      fleet = await createFleet(rig.system);
      if (wire === 'postgres') return;
      fleet.add(4 * perWave);
      await eventually(() => fleet.devices.every((device) => device.connected()), { withinMs });
    });
    afterAll(async () => {
      await fleet?.[Symbol.asyncDispose]();
      await rig?.[Symbol.asyncDispose]();
    });

    test.runIf(wire === 'postgres')(
      'of enrolments leaves each device with one certificate and one row',
      { timeout: 180_000 },
      async () => {
        const { system, postgres, temporal } = rig;
        const [gateway] = system.gateways;
        for (const part of [system.lifecycle, gateway, postgres, temporal]) {
          const before = await system.db.$count(enrolments);
          const wave = fleet.add(perWave);
          await eventually(async () => (await system.db.$count(enrolments)) > before, { withinMs });
          await part?.kill();
          await part?.start();
          await eventually(() => wave.some((device) => device.name() !== undefined), { withinMs });
        }
        await eventually(() => fleet.devices.every((device) => device.connected()), { withinMs });
        await allQuiet(rig);
        await expectEnrolledOnce(rig, fleet);
      },
    );

    test('of a stream of commands loses none and doubles none', { timeout: 180_000 }, async () => {
      const { system, postgres, temporal } = rig;
      const [gateway] = system.gateways;
      expect((await listHolders(rig)).length).toBe(2);
      // Where no hint helps, many small ones: then the relay always has some in hand.
      const many = wire === 'none' ? { targets: 1, everyMs: 50 } : {};
      const stream = streamCommands(system, fleet.names(), many);
      for (const part of [system.lifecycle, gateway, system.api, temporal, postgres]) {
        const before = fleet.work.size;
        await eventually(() => fleet.work.size > before + 10, { withinMs });
        await part?.kill();
        await part?.start();
      }
      await stream.stop();
      await expectNothingLostOrDoubled(rig, fleet, stream.accepted);
      expect(stream.accepted.length).toBeGreaterThan(10);
    });

    test(
      'a client id moves between gateways in order, and whoever had it before is told',
      { timeout: 60_000 },
      async () => {
        const { system, gateways } = { ...rig, gateways: rig.system.gateways };
        const device = await enrolOnly(system.mqtt, fleet.claim);
        let before: Awaited<ReturnType<typeof connectAs>> | undefined;
        let epoch = 0;
        for (const { port } of [...gateways, ...gateways]) {
          const now = await connectAs(system, device, port);
          const session = await sessionOf(rig, device);
          expect(session).toMatchObject({ closedAt: null, port });
          expect(session?.epoch).toBeGreaterThan(epoch);
          if (before) expect(await before.ended).toBe(sessionTakenOver);
          [before, epoch] = [now, session?.epoch ?? 0];
        }
        const all = await Promise.all(
          [...gateways, ...gateways, ...gateways].map(({ port }) => connectAs(system, device, port)),
        );
        await eventually(() => all.filter(({ client }) => client.connected).length === 1, { withinMs });
        const [last] = all.filter(({ client }) => client.connected);
        expect(await sessionOf(rig, device)).toMatchObject({ closedAt: null, port: last?.port });
        last?.client.end();
      },
    );

    test(
      'of a gateway leaves its devices to the other, and one that stays away is told as gone, once',
      { timeout: 90_000 },
      async () => {
        const { system } = rig;
        const [dying, other] = system.gateways;
        const lone = await enrolOnly(system.mqtt, fleet.claim);
        await connectAs(system, lone, dying?.port ?? 0);
        await bothJudge(rig);
        const before = await listDisconnected(rig);
        await dying?.kill();
        await eventually(
          async () => expect(await sessionOf(rig, lone)).toMatchObject({ reason: 'SERVER_ERROR', connected: false }),
          { withinMs },
        );
        expect(await listHolders(rig)).toEqual([
          { port: other?.port, sessions: fleet.devices.length, connected: fleet.devices.length },
        ]);
        await dying?.start();
        // Whoever would tell it again has had the time to.
        await bothJudge(rig);
        expect((await listDisconnected(rig)).slice(before.length)).toEqual([lone.name]);
      },
    );
  });
}

/** MQTT 5 3.14.2.1. */
const sessionTakenOver = 0x8e;
