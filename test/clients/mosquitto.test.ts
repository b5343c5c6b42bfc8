import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { eq } from 'drizzle-orm';
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest';
import { commandTargets } from '../../db/schema.ts';
import { makeCommand } from '../gateway/rows.ts';
import { eventually } from '../support/eventually.ts';
import type { Credentials } from '../support/gateway.ts';
import { openDoor, type Door } from './door.ts';
import { executionTopic } from './fleet.ts';
import { asMosquitto, type Listening, type Mosquitto, type Version } from './mosquitto.ts';

let door: Door;
let folder: string;
let neighbour: { name: string; listening: Listening };
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'longhaul-mosquitto-'));
  door = await openDoor();
  const { name, programs } = await makeDevice();
  const listening = programs.listen('mqttv311', [executionTopic(name, '+', 'request/json')]);
  await subscribed(listening);
  neighbour = { name, listening };
}, 60_000);
afterAll(async () => {
  neighbour.listening.process.kill();
  await door[Symbol.asyncDispose]();
  await rm(folder, { recursive: true });
});
/** Connected since before, on the same gateway: it is told of its next command as ever. */
afterEach(async () => {
  const { executionId } = await command(neighbour.name);
  await eventually(() => neighbour.listening.output().includes(`${executionId}/request/json {"do":"it"}`));
});

const program = (credentials: Credentials) => {
  const { port } = door.gateway.listener;
  return asMosquitto({ host: 'localhost', port, ca: door.fleet.authority.rootPem }, credentials, folder);
};

async function makeDevice() {
  const device = await door.fleet.makeDevice();
  return { ...device, programs: await program(device) };
}

/** A command for the device, sent as the API sends it. */
async function command(name: string) {
  const { executionIds } = await makeCommand(door.fleet.db, [{ name }]);
  const [executionId = ''] = executionIds;
  door.hint((await rowOf(executionId))?.deviceId ?? '');
  return { executionId, responseTopic: executionTopic(name, executionId, 'response/json') };
}

const rowOf = async (executionId: string) =>
  (await door.fleet.db.select().from(commandTargets).where(eq(commandTargets.executionId, executionId)))[0];
const subscribed = (listening: Listening) => eventually(() => /Subscribed \(mid: \d+\): 1/.test(listening.output()));

const expectAudited = (name: string, refusals: string[]) =>
  eventually(async () => expect(await door.listTopicRefusals(name)).toEqual(refusals.toSorted()));

const versions: [Version][] = [['mqttv311'], ['mqttv5']];

describe.each(versions)('mosquitto, %s', (version) => {
  const isRefused = ({ output }: { output: string }) =>
    version === 'mqttv5' ? output.includes('RC:135') : !/received PUBACK/.test(output);

  test('hears a command and reports on it, with a NUL at the end of its JSON', async () => {
    const { name, programs } = await makeDevice();
    const listening = programs.listen(version, [executionTopic(name, '+', 'request/json')]);
    await subscribed(listening);
    const { executionId, responseTopic } = await command(name);
    const line = `${executionTopic(name, executionId, 'request/json')} {"do":"it"}\n`;
    await eventually(() => listening.output().includes(line));
    listening.process.kill();
    const reported = await programs.publish(version, responseTopic, '{"status":"SUCCEEDED"}\0');
    expect(reported).toMatchObject({ code: 0, output: expect.stringContaining('received PUBACK') });
    expect(await rowOf(executionId)).toMatchObject({ status: 'SUCCEEDED', statusBy: 'device' });
    expect(listening.output().split(line)).toHaveLength(2);
  });

  test('asks with an empty body for a key, and is given it once', async () => {
    const programs = await program(await door.makeLine({ serverMadeKeys: true }));
    const topic = '$aws/certificates/create/json';
    const { code, output } = await programs.ask(version, topic, `${topic}/accepted`, '');
    expect(code).toBe(0);
    expect(output).toContain('-----BEGIN PRIVATE KEY-----');
    expect(output.match(/received PUBLISH/g)).toHaveLength(1);
  });

  test('is told that its JSON is bad, and nothing is recorded', async () => {
    const { name, programs } = await makeDevice();
    const { executionId, responseTopic } = await command(name);
    const rejected = executionTopic(name, executionId, 'response/rejected/json');
    const { output } = await programs.ask(version, responseTopic, rejected, '{"status":');
    expect(output).toContain('{"error":"InvalidJson","errorMessage":"the payload is not JSON"');
    expect(await rowOf(executionId)).toMatchObject({ status: 'CREATED', version: 1 });
  });

  test('is refused what it publishes for another device, on whatever topic', async () => {
    const victim = await makeDevice();
    const { name, programs } = await makeDevice();
    const { executionId, responseTopic } = await command(victim.name);
    const own = executionTopic(name, executionId, 'response/json');
    const topics = [
      responseTopic,
      responseTopic.replace('things', 'clients'),
      `$aws/things/${victim.name}/shadow/update`,
    ];
    for (const topic of topics)
      expect(await programs.publish(version, topic, '{"status":"SUCCEEDED"}')).toSatisfy(isRefused);
    // Its own topic with the other's execution: an answer, which is that it has no such execution.
    const rejected = executionTopic(name, executionId, 'response/rejected/json');
    expect((await programs.ask(version, own, rejected, '{"status":"SUCCEEDED"}')).output).toContain('ResourceNotFound');
    expect(await rowOf(executionId)).toMatchObject({ status: 'CREATED', version: 1 });
    await expectAudited(
      name,
      topics.map((topic) => `publish ${topic}`),
    );
  });

  test('is refused a retained message', async () => {
    const { name, programs } = await makeDevice();
    const { executionId, responseTopic } = await command(name);
    expect(await programs.publish(version, responseTopic, '{"status":"SUCCEEDED"}', '-r')).toSatisfy(isRefused);
    expect(await rowOf(executionId)).toMatchObject({ status: 'CREATED' });
    await expectAudited(name, [`publish ${responseTopic}`]);
  });

  test('is refused every filter by which it would hear another device, and hears nothing', async () => {
    const victim = await makeDevice();
    const { name, programs } = await makeDevice();
    const filters = [
      executionTopic(victim.name, '+', 'request/json'),
      executionTopic('+', '+', 'request/json'),
      `$aws/commands/things/${victim.name}/#`,
      '$aws/#',
      '#',
      '+/#',
      '+/commands/#',
      '$aws/events/presence/connected/+',
    ];
    const denied = await programs.listen(version, filters).ended;
    const answers = denied.output.match(/Subscribed \(mid: \d+\): ([\d, ]+)/)?.[1]?.split(', ');
    expect(answers).toEqual(filters.map(() => (version === 'mqttv5' ? '135' : '128')));

    const own = executionTopic(name, '+', 'request/json');
    const listening = programs.listen(version, [own, ...filters.slice(0, 7)]);
    await subscribed(listening);
    await command(victim.name);
    const { executionId } = await command(name);
    await eventually(() => listening.output().includes(executionId));
    listening.process.kill();
    const received = listening.output().match(/received PUBLISH .*/g);
    expect(received).toEqual([expect.stringContaining(executionTopic(name, executionId, 'request/json'))]);
    await eventually(async () => expect(await door.listTopicRefusals(name)).toContain(`subscribe ${filters[0]}`));
  });

  test('may leave a will that reports for itself, and none that speaks for another or is retained', async () => {
    const victim = await makeDevice();
    const { name, programs } = await makeDevice();
    const [foreign, own] = [await command(victim.name), await command(name)];
    const kept = await command(name);
    const will = (topic: string) => ['--will-topic', topic, '--will-payload', '{"status":"FAILED"}', '--will-qos', '1'];
    const options = [
      will(foreign.responseTopic),
      [...will(kept.responseTopic), '--will-retain'],
      will(own.responseTopic),
    ];
    for (const wills of options) {
      const listening = programs.listen(version, [executionTopic(name, '+', 'request/cbor')], ...wills);
      await subscribed(listening);
      listening.process.kill('SIGKILL');
      await listening.ended;
    }
    await eventually(async () => expect(await rowOf(own.executionId)).toMatchObject({ status: 'FAILED' }));
    for (const { executionId } of [foreign, kept]) {
      expect(await rowOf(executionId)).toMatchObject({ status: 'CREATED', version: 1 });
    }
    await expectAudited(name, [`will ${foreign.responseTopic}`, `will ${kept.responseTopic}`]);
  });

  test('is cut off with more than 128 KiB, and nothing is recorded', async () => {
    const { name, programs } = await makeDevice();
    const { executionId, responseTopic } = await command(name);
    for (const size of [129 * 1024, 1024 * 1024]) {
      const body = JSON.stringify({ status: 'SUCCEEDED', statusReason: { reasonDescription: 'x'.repeat(size) } });
      const { output } = await programs.publish(version, responseTopic, body);
      expect(output).not.toContain('received PUBACK');
    }
    expect(await rowOf(executionId)).toMatchObject({ status: 'CREATED', version: 1 });
    expect(await programs.publish(version, responseTopic, '{"status":"SUCCEEDED"}')).toMatchObject({ code: 0 });
  });

  test('is told nothing of another claim device, though both listen on one topic', async () => {
    const claim = await door.makeLine({ serverMadeKeys: true });
    const [curious, honest]: Mosquitto[] = [await program(claim), await program(claim)];
    const topic = '$aws/certificates/create/json';
    const listening = curious?.listen(version, [`${topic}/accepted`, `${topic}/+`]);
    if (!listening || !honest) throw new Error('unreachable');
    await subscribed(listening);
    expect((await honest.ask(version, topic, `${topic}/accepted`, '{}')).output).toContain('BEGIN PRIVATE KEY');
    listening.process.kill();
    expect((await listening.ended).output).not.toContain('received PUBLISH');
  });
});
