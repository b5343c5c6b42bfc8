import { once } from 'node:events';
import { mkdir } from 'node:fs/promises';
import { resolve } from 'node:path';
import { faint, say, strong, warn } from './console.ts';
import { demonstrate } from './demonstration.ts';
import { ensureFleetEntrance } from './fleet-entrance.ts';
import { sayWhatHappens } from './happenings.ts';
import { initialise } from './initialise.ts';
import {
  flagOf,
  parseStackOptions,
  portNames,
  usage,
  UsageError,
  type PortName,
  type StackOptions,
} from './options.ts';
import { bringUpApi, bringUpDevices, bringUpDoors, bringUpFiles, bringUpGateway, bringUpLifecycle } from './parts.ts';
import { bringUpPostgres, bringUpTemporal, endLeftovers, environmentOf } from './parts.ts';
import { host, namespace, serverName, uiUrlOf } from './parts.ts';
import type { PartsDeps } from './parts.ts';
import { holdFolder } from './pid-files.ts';
import { choosePort } from './ports.ts';
import { publishStackFile, withdrawStackFile, type Stack } from './stack-file.ts';
import { stopSignal } from './stop-signal.ts';

/** Everything on one machine: what `npm start` runs. Ends by a signal, and leaves nothing running. */
const signal = stopSignal();
try {
  const options = parseStackOptions(process.argv.slice(2));
  if (options) {
    await run(options);
    say('longhaul', 'stopped; nothing is left running');
  } else {
    console.log(usage);
  }
} catch (error) {
  if (!signal.aborted) {
    warn('longhaul', describe(error));
    process.exitCode = error instanceof UsageError ? 2 : 1;
  }
}

async function run(options: StackOptions): Promise<void> {
  const dataDir = resolve(options.dataDir);
  await mkdir(dataDir, { recursive: true });
  await using up = new AsyncDisposableStack();
  up.use(await holdFolder(dataDir));
  await withdrawStackFile(dataDir);
  await endLeftovers(dataDir);
  const parts: PartsDeps = { up, dataDir, ports: await choosePorts(options.ports), signal };

  const { stack, isFirst } = await bringUp(parts);
  up.use(await publishStackFile(dataDir, stack));
  const talk = new AbortController();
  const talking = sayWhatHappens(stack.postgres.url, talk.signal);
  up.defer(() => {
    talk.abort();
    return talking;
  });
  if (options.devices > 0) await bringUpDevices(parts, stack.api, options.devices);

  const seconds = (performance.now() / 1000).toFixed(1);
  say('longhaul', strong(`ready in ${seconds} s`) + faint('; ctrl-C ends it'));
  if (isFirst) explain(stack, options.devices > 0 ? 'pump-1' : undefined);
  if (isFirst && options.devices > 1) up.defer(showRollouts(stack, dataDir, options.devices));
  if (!signal.aborted) await once(signal, 'abort');
  say('longhaul', 'stopping');
}

/** Two small rollouts beside everything else. What it gives ends them. */
function showRollouts({ api }: Stack, dataDir: string, devices: number): () => Promise<void> {
  const shown = demonstrate(api, dataDir, devices, signal).catch((error: unknown) => {
    if (!signal.aborted) warn('rollout', describe(error));
  });
  return () => shown;
}

/** Databases first, side by side; then what stands on them; then the way in for devices. Each is asked before it counts. */
async function bringUp(parts: PartsDeps): Promise<{ stack: Stack; isFirst: boolean }> {
  const { dataDir, ports } = parts;
  const prepare = async () => {
    const { url: databaseUrl } = await bringUpPostgres(parts);
    const environment = environmentOf(parts, databaseUrl);
    return { databaseUrl, env: environment, initialised: await initialise(dataDir, environment) };
  };
  const [{ databaseUrl, env, initialised }, { address }] = await together([prepare(), bringUpTemporal(parts)]);
  signal.throwIfAborted();

  const { administratorKey: token, rootCertificateFile, rootCertificatePem } = initialised;
  const openEntrance = async () => {
    const api = { url: await bringUpApi(parts, env), token };
    return { api, ...(await ensureFleetEntrance(api, dataDir)) };
  };
  const [{ api, claim, isNew: isFirst }, filesUrl, doorsUrl] = await together([
    openEntrance(),
    bringUpFiles(parts, env, rootCertificatePem),
    bringUpDoors(parts, env, rootCertificatePem),
    bringUpGateway(parts, env, rootCertificatePem),
    bringUpLifecycle(parts, env),
  ]);
  const {
    certificate: { certificatePem, privateKey },
    template,
  } = claim;
  const stack = {
    api,
    mqtt: { host, port: ports.mqtt, serverName },
    files: { url: filesUrl },
    doors: { url: doorsUrl },
    ui: { url: uiUrlOf(ports) },
    temporal: { address, namespace },
    postgres: { url: databaseUrl },
    authority: { file: rootCertificateFile },
    claim: { certificate: certificatePem, privateKey, template },
  };
  return { stack, isFirst };
}

/** Like `Promise.all`, but does not leave while one is still starting: what has come up is then known, and can be ended. */
async function together<T extends readonly unknown[]>(starts: { [K in keyof T]: Promise<T[K]> }) {
  await Promise.allSettled(starts);
  return Promise.all(starts);
}

/** Before anything starts. All that are busy are named at once. */
async function choosePorts(wanted: Record<PortName, number>): Promise<Record<PortName, number>> {
  const chosen = { ...wanted };
  const faults: string[] = [];
  for (const name of portNames) {
    try {
      chosen[name] = await choosePort(wanted[name], flagOf(name));
    } catch (error) {
      faults.push(describe(error));
    }
  }
  if (faults.length > 0) throw new Error(faults.join('\n'));
  return chosen;
}

function describe(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}

/** After the first start: the key, which is not shown again, and what to do with it. */
function explain({ api }: Stack, device: string | undefined): void {
  console.log(`
${strong("The administrator's key, shown this once:")} ${api.token}
`);
  if (device === undefined) return;
  const command = { targets: device, payload: { operation: 'echo', message: 'hello' } };
  console.log(`${strong(`Send ${device} a command:`)}
curl ${api.url}/v1/commands \\
  -H 'Authorization: Bearer ${api.token}' -H 'Content-Type: application/json' \\
  -d '${JSON.stringify(command)}'
`);
}
