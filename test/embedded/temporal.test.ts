import { mkdir, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { Client, Connection, WorkflowNotFoundError } from '@temporalio/client';
import { afterAll, beforeAll, expect, inject, test } from 'vitest';
import { startTemporal, temporalBinary } from '../../embedded/temporal.ts';
import { eventually } from '../support/eventually.ts';
import { freshTaskQueue, ownTemporal, sharedTemporal } from '../support/temporal.ts';

let dataDir: string;

beforeAll(() => {
  dataDir = join(inject('folder'), 'temporal-test');
});
afterAll(() => rm(dataDir, { recursive: true, force: true }));

type Options = { port?: number; uiPort?: number; searchAttributes?: string[]; binary?: string };
const start = (options: Options = {}) =>
  startTemporal({ dataDir, port: 0, namespace: 'longhaul', searchAttributes: [], ...options });

async function withClient<T>(address: string, work: (client: Client) => Promise<T>): Promise<T> {
  const connection = await Connection.connect({ address });
  try {
    return await work(new Client({ connection, namespace: 'longhaul' }));
  } finally {
    await connection.close();
  }
}

/** A workflow no worker ever takes: it only stands in the store. */
const startWorkflow = (address: string, workflowId: string, searchAttributes = {}) =>
  withClient(address, (client) =>
    client.workflow.start('waits', { taskQueue: freshTaskQueue(), workflowId, searchAttributes }),
  );

const statusOf = (address: string, workflowId: string) =>
  withClient(address, async (client) => (await client.workflow.getHandle(workflowId).describe()).status.name);

test('what was started survives a kill -9 of the server', async () => {
  await using server = await ownTemporal();
  await startWorkflow(server.address, 'kept');
  await server.kill();
  await server.start();
  expect(await statusOf(server.address, 'kept')).toBe('RUNNING');
});

test('a store that was deleted is a new namespace, and everything in it is forgotten', async () => {
  await using server = await ownTemporal();
  const namespaceId = () =>
    withClient(server.address, async ({ connection }) => {
      const { namespaceInfo } = await connection.workflowService.describeNamespace({ namespace: 'longhaul' });
      return namespaceInfo?.id;
    });
  await startWorkflow(server.address, 'lost');
  const before = await namespaceId();

  await server.kill();
  await server.deleteStore();
  await server.start();
  expect(await namespaceId()).not.toBe(before);
  await expect(statusOf(server.address, 'lost')).rejects.toThrow(WorkflowNotFoundError);
});

test('search attributes can be used at once, and a later start adds those that are new', async () => {
  const first = await start({ searchAttributes: ['LonghaulDevice'] });
  await startWorkflow(first.address, 'one', { LonghaulDevice: ['pump-17'] });
  await first[Symbol.asyncDispose]();

  await using second = await start({ searchAttributes: ['LonghaulDevice', 'LonghaulStatus'] });
  await startWorkflow(second.address, 'two', { LonghaulDevice: ['pump-17'], LonghaulStatus: ['waiting'] });
  expect(await statusOf(second.address, 'one')).toBe('RUNNING');
});

test('a server that ends while it starts is started again, and no more than twice', async () => {
  await mkdir(dataDir, { recursive: true });
  const binary = join(dataDir, 'flaky');
  const countdown = join(dataDir, 'countdown');
  // Ends as often as the file says before it becomes what it stands for.
  const script = `#!/bin/sh\nread left < ${countdown}\n[ "$left" -eq 0 ] && exec ${temporalBinary} "$@"\n`;
  await writeFile(binary, `${script}echo $((left - 1)) > ${countdown}\necho 'the port is taken'\nexit 2\n`, {
    mode: 0o700,
  });
  await writeFile(countdown, '2\n');
  await using server = await start({ binary });
  expect(await readFile(countdown, 'utf8')).toBe('0\n');
  await server[Symbol.asyncDispose]();
  await writeFile(countdown, '3\n');
  await expect(start({ binary })).rejects.toThrow('Temporal stopped while starting (exit code 2): the port is taken');
});

test('one left running in the folder is stopped, and the next takes its place under the same port', async () => {
  const left = await start();
  await using next = await start({ port: Number(left.address.split(':')[1]) });
  expect(await left.exited).toBe('exit code 0');
  expect(next.address).toBe(left.address);
});

test('the user interface answers when it is wanted', async () => {
  await using server = await start({ uiPort: 0 });
  const page = await fetch(`${server.uiUrl}/namespaces/longhaul/workflows`);
  expect(page.headers.get('content-type')).toContain('text/html');
  await eventually(async () => {
    const asked = await fetch(`${server.uiUrl}/api/v1/namespaces/longhaul`);
    expect(await asked.json()).toMatchObject({ namespaceInfo: { name: 'longhaul' } });
  });
});

test('a port in use is an error that names it and the flag', async () => {
  const port = Number(sharedTemporal().address.split(':')[1]);
  await expect(start({ port })).rejects.toThrow(
    `Port ${port} is in use: free it, or choose another with --temporal-port`,
  );
  await expect(start({ uiPort: port })).rejects.toThrow('--ui-port');
});

test('its folder is closed to others', async () => {
  await using server = await start();
  expect((await stat(dataDir)).mode & 0o777).toBe(0o700);
  expect(server.uiUrl).toBeUndefined();
});
