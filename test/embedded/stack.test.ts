import { execFile, spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { readFile, stat } from 'node:fs/promises';
import { createServer } from 'node:net';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { afterAll, describe, expect, inject, test } from 'vitest';
import { readStackFile, stackFileOf, type Stack } from '../../embedded/stack-file.ts';
import { eventually } from '../support/eventually.ts';
import { fetchAll } from '../support/files.ts';

const run = promisify(execFile);
const entry = fileURLToPath(new URL('../../embedded/stack.ts', import.meta.url));
const freePorts = ['api', 'mqtt', 'files', 'doors', 'ui', 'temporal', 'postgres'].flatMap((name) => [
  `--${name}-port`,
  '0',
]);
const readyWithinMs = 120_000;

const started: ChildProcess[] = [];
afterAll(() => started.forEach((supervisor) => supervisor.kill('SIGTERM')));

function start(dataDir: string, ...flags: string[]) {
  const args = [entry, '--devices', '2', '--data', dataDir, ...freePorts, ...flags];
  const supervisor = spawn(process.execPath, args, {
    stdio: ['ignore', 'pipe', 'pipe'],
    env: { ...process.env, NO_COLOR: '1' },
  });
  started.push(supervisor);
  let printed = '';
  for (const stream of [supervisor.stdout, supervisor.stderr]) stream.on('data', (chunk) => (printed += String(chunk)));
  const exited = once(supervisor, 'exit');
  return { supervisor, exited, printed: () => printed };
}

const whenReady = (dataDir: string, { printed }: { printed: () => string }): Promise<Stack> =>
  eventually(
    async () => {
      if (!printed().includes('ready in')) throw new Error(`not ready; it printed:\n${printed()}`);
      return readStackFile(stackFileOf(dataDir));
    },
    { withinMs: readyWithinMs },
  );

async function ask(stack: Stack, method: string, path: string, body?: object) {
  const headers = { authorization: `Bearer ${stack.api.token}`, ...(body && { 'content-type': 'application/json' }) };
  const answer = await fetch(`${stack.api.url}/v1${path}`, {
    method,
    headers,
    ...(body && { body: JSON.stringify(body) }),
  });
  return { status: answer.status, body: JSON.parse(await answer.text()) };
}

/** Whatever runs, of any parent, with something of this folder on its command line or in its environment. */
async function processesOf(dataDir: string): Promise<string[]> {
  const { stdout } = await run('ps', ['axeww', '-o', 'pid=,stat=,args='], { maxBuffer: 64 * 1024 * 1024 });
  return stdout
    .split('\n')
    .filter((line) => line.includes(dataDir) && !line.includes('ps axeww') && !/^ *\d+ Z/.test(line));
}

const expectEcho = async (stack: Stack, device: string) => {
  const command = { targets: device, payload: { operation: 'echo', message: 'hello' } };
  const sent = await ask(stack, 'POST', '/commands', command);
  expect(sent.status).toBe(202);
  await eventually(
    async () => {
      const { body } = await ask(stack, 'GET', `/commands/${sent.body.id}`);
      expect(body.targets).toMatchObject([{ device, status: 'SUCCEEDED', result: { message: { s: 'hello' } } }]);
    },
    { withinMs: 30_000 },
  );
};

const fleetOf = async (stack: Stack) => {
  const [{ body: devices }, { body: enrolments }] = await Promise.all([
    ask(stack, 'GET', '/devices'),
    ask(stack, 'GET', '/enrolments'),
  ]);
  const names: string[] = devices.items.map(({ name }: { name: string }) => name);
  const ids: string[] = enrolments.items.map(({ id }: { id: string }) => id);
  return { names: names.toSorted(), enrolments: ids.toSorted() };
};

describe('npm start', () => {
  test(
    'brings everything up, survives its own kill -9 with the same fleet, and leaves nothing running',
    { timeout: 6 * readyWithinMs },
    async () => {
      const dataDir = join(inject('folder'), 'npm-start');
      const first = start(dataDir);
      const stack = await whenReady(dataDir, first);
      expect((await stat(stackFileOf(dataDir))).mode & 0o777).toBe(0o600);
      const ca = await readFile(stack.authority.file, 'utf8');
      for (const { url } of [stack.files, stack.doors]) {
        expect(await fetchAll(`${url}/readyz`, { ca })).toMatchObject({ status: 200 });
      }
      expect(stack.claim).toMatchObject({
        template: 'default',
        certificate: expect.stringContaining('BEGIN CERTIFICATE'),
      });
      expect(first.printed()).toContain(stack.api.token);
      await eventually(async () => expect((await fleetOf(stack)).names).toEqual(['pump-1', 'pump-2']), {
        withinMs: 60_000,
      });
      await expectEcho(stack, 'pump-1');
      const fleet = await fleetOf(stack);
      await eventually(() => first.printed().includes('carried out command'));

      first.supervisor.kill('SIGKILL');
      await first.exited;
      const second = start(dataDir);
      const stackAgain = await whenReady(dataDir, second);
      expect(stackAgain.api.token).toBe(stack.api.token);
      expect(stackAgain.claim).toEqual(stack.claim);
      expect(second.printed()).not.toContain(stack.api.token);
      await expectEcho(stackAgain, 'pump-2');
      expect(await fleetOf(stackAgain)).toEqual(fleet);

      second.supervisor.kill('SIGTERM');
      expect(await second.exited).toEqual([0, null]);
      expect(await processesOf(dataDir)).toEqual([]);
      await expect(stat(stackFileOf(dataDir))).rejects.toThrow('ENOENT');
    },
  );

  test('names a busy port and its flag, before anything starts', async () => {
    const other = createServer().listen(0, '127.0.0.1');
    await once(other, 'listening');
    const { port } = Object.assign({ port: 0 }, other.address());
    const dataDir = join(inject('folder'), 'npm-start-busy');
    const busy = start(dataDir, '--mqtt-port', String(port));
    expect(await busy.exited).toEqual([1, null]);
    expect(busy.printed()).toMatch(new RegExp(`port ${port} .*--mqtt-port`, 'i'));
    await expect(stat(join(dataDir, 'postgres'))).rejects.toThrow('ENOENT');
    other.close();
  });

  test.each([
    [['--devices', 'many'], /--devices takes a whole number/],
    [['--port', '1'], /--port/],
    [['--api-port', '99999'], /--api-port takes a whole number from 0 to 65535/],
  ])('refuses %j', async (flags, message) => {
    const refused = start(join(inject('folder'), 'npm-start-refused'), ...flags);
    expect(await refused.exited).toEqual([2, null]);
    expect(refused.printed()).toMatch(message);
  });
});
