import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { eventually } from '../support/eventually.ts';
import { openWorkshop, type Updating, type Workshop } from './updating.ts';

let shop: Workshop;
beforeAll(async () => void (shop = await openWorkshop()));
afterAll(() => shop[Symbol.asyncDispose]());

const handler = (name: string, args: string[] = [], rest: object = {}) => ({
  action: { name, type: 'runHandler', input: { handler: name, args, path: 'default' }, runAsUser: 'root', ...rest },
});
const command = (line: string, rest: object = {}) => ({
  action: { name: 'a command', type: 'runCommand', input: { command: line }, ...rest },
});
const commandsOf = ({ folder }: Updating): unknown[] => {
  const noted = join(folder, 'commands');
  if (!existsSync(noted)) return [];
  return readdirSync(noted)
    .toSorted()
    .map((name) => JSON.parse(readFileSync(join(noted, name), 'utf8')));
};

describe('a document in the schema of the managed templates', () => {
  test('is carried out step by step, the final step last', async () => {
    const device = await shop.makeDevice();
    const content = shop.artifacts.put(randomBytes(50_000));
    const rebooted = once(device.events, 'rebooting');
    const jobId = await shop.give(device, {
      version: '1.0',
      includeStdOut: true,
      steps: [
        command('echo,hello\\, world'),
        handler('download-file.sh', [`\${longhaul:url:${content.sha256}}`, '/etc/../tmp/pump.conf']),
        handler('reboot.sh'),
      ],
      finalStep: command('echo,done'),
    });
    await rebooted;
    const stdout = 'noted: echo hello, world; downloaded pump.conf; rebooted; noted: echo done';
    await shop.expectExecution(jobId, { status: 'SUCCEEDED', details: { stdout } });
    expect(commandsOf(device)).toEqual([
      ['echo', 'hello, world'],
      ['echo', 'done'],
    ]);
    expect(readFileSync(join(device.folder, 'files/pump.conf')).equals(content.bytes)).toBe(true);
    expect(readdirSync(join(device.folder, 'files'))).toEqual(['pump.conf']);
    await eventually(() => expect(device.said).toEqual(['SUCCEEDED']));
  });

  test('keeps what it printed to itself unless it is asked for it', async () => {
    const device = await shop.makeDevice();
    const jobId = await shop.give(device, { version: '1.0', steps: [command('echo,hello')] });
    await shop.expectExecution(jobId, { status: 'SUCCEEDED', details: {} });
    expect((await shop.executionOf(jobId))?.details).toEqual({});
  });

  test('stops at a step that fails, and takes no final step', async () => {
    const device = await shop.makeDevice();
    const steps = [command('one'), handler('install-packages.sh', ['lftp']), command('two')];
    const jobId = await shop.give(device, {
      version: '1.0',
      includeStdOut: 'true',
      steps,
      finalStep: command('three'),
    });
    const reason = expect.stringMatching('NO_HANDLER');
    await shop.expectExecution(jobId, {
      status: 'FAILED',
      details: { reason, stdout: expect.stringMatching('noted: one') },
    });
    expect(commandsOf(device)).toEqual([['one']]);
  });

  test('goes on over a step that may fail', async () => {
    const device = await shop.makeDevice();
    const steps = [
      handler('install-packages.sh', ['lftp'], { ignoreStepFailure: 'true' }),
      handler('download-file.sh', ['http://127.0.0.1:1/', 'file'], { ignoreStepFailure: 'true' }),
      command('two'),
    ];
    const jobId = await shop.give(device, { version: '1.0', steps });
    await shop.expectExecution(jobId, { status: 'SUCCEEDED' });
    expect(commandsOf(device)).toEqual([['two']]);
  });

  test.each([
    ['a path that leads nowhere', ['http://127.0.0.1/', '..']],
    ['a scheme that it does not speak', ['file:///etc/passwd', 'passwd']],
    ['no arguments', []],
  ])('downloads nothing for %s', async (_, args) => {
    const device = await shop.makeDevice();
    const jobId = await shop.give(device, { version: '1.0', steps: [handler('download-file.sh', args)] });
    await shop.expectExecution(jobId, {
      status: 'FAILED',
      details: { reason: expect.stringMatching('BAD_ARGUMENTS') },
    });
    expect(existsSync(join(device.folder, 'files'))).toBe(false);
  });

  test.each([
    ['another version', { version: '2.0', steps: [command('one')] }],
    ['no steps', { version: '1.0', steps: [] }],
    ['a type of step that is not known', { version: '1.0', steps: [{ action: { type: 'runKernel', input: {} } }] }],
    ['an empty command', { version: '1.0', steps: [command('')] }],
    ['no object', 'make tea'],
  ])('is rejected when it has %s', async (_, document) => {
    const device = await shop.makeDevice();
    const jobId = await shop.give(device, document);
    const details = { reason: expect.stringMatching('UNKNOWN_DOCUMENT') };
    await shop.expectExecution(jobId, { status: 'REJECTED', startedAt: null, details });
    await eventually(() => expect(device.said).toEqual(['REJECTED']));
  });

  test.each(['offered', 'started', 'kept', 'step-done', 'judged', 'told', 'forgotten'] as const)(
    'is carried out to its end over a power cut at "%s"',
    async (step) => {
      const device = await shop.makeDevice();
      device.cutPower(step);
      const steps = [command('one'), handler('reboot.sh'), command('two')];
      const jobId = await shop.give(device, { version: '1.0', includeStdOut: true, steps });
      await once(device.events, 'powerCut');
      const stdout = 'noted: one; rebooted; noted: two';
      await shop.expectExecution(jobId, { status: 'SUCCEEDED', details: { stdout } });
      expect(commandsOf(device)).toEqual([['one'], ['two']]);
    },
  );
});
