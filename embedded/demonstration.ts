import { createHash, type KeyObject } from 'node:crypto';
import { join } from 'node:path';
import { setTimeout as pause } from 'node:timers/promises';
import { z } from 'zod';
import { describeKey, makeReleaseKey, readPrivateKey, type ReleaseKey } from '../pki/release-keys.ts';
import { signManifest } from '../pki/manifests.ts';
import { refused, request, type Api } from './api-requests.ts';
import { readFileIfThere, writeSecretFile } from './secret-files.ts';

export const product = 'pump';
export const hardware = 'rev-a';
/** What simulated devices leave their factory with. */
export const factoryVersion = '1.0.0';
/** This one's new images never pass their health check. */
export const unluckySerial = 'pump-2';

const pollMs = 500;
const identified = z.object({ id: z.string() });
const stated = z.object({ state: z.string() });
const named = z.object({ items: z.array(z.object({ name: z.string() })) });
const listed = z.object({ items: z.array(z.unknown()) });
const orderKeysListed = z.object({ items: z.array(z.object({ publicKeyPem: z.string() })) });

/** The key that signs the demonstration's releases, as a release engineer would keep it; made at the first start. */
async function ensurePrivateKey(dataDir: string): Promise<KeyObject> {
  const file = join(dataDir, 'release-key.pem');
  const kept = await readFileIfThere(file);
  const pem = kept ?? makeReleaseKey('ES256');
  if (kept === undefined) await writeSecretFile(file, pem);
  return readPrivateKey(pem);
}

/** By whose signature the simulated devices know a manifest: its public half. */
export const ensureReleaseKey = async (dataDir: string): Promise<ReleaseKey> =>
  describeKey(await ensurePrivateKey(dataDir));

/** By whose signature they know an order: the public halves that the orchestrator says its orders are, or will be, signed by. */
export async function listOrderKeys(api: Api): Promise<string[]> {
  const answer = await request(api, 'GET', `/v1/order-keys?filter=${encodeURIComponent('state!=RETIRED')}`);
  if (!answer.ok) throw await refused('the list of order keys', answer);
  return orderKeysListed.parse(await answer.json()).items.map(({ publicKeyPem }) => publicKeyPem);
}

/**
 * Shows two small rollouts, as any operator would make them, through the public API: one that goes well, and one whose
 * unlucky device breaks the limit, so that all that were updated go back. Then one device replaces its certificate.
 * Returns when the rollouts have ended, and the rotation is begun.
 */
export async function demonstrate(api: Api, dataDir: string, devices: number, signal: AbortSignal): Promise<void> {
  const privateKey = await ensurePrivateKey(dataDir);
  const { publicKeyPem } = await describeKey(privateKey);
  await call('POST', '/v1/release-keys', { name: 'demonstration', publicKeyPem });
  const running = `/v1/devices?filter=version.${product}==${factoryVersion}&limit=500`;
  await until(async () => listed.parse(await call('GET', running)).items.length >= Math.min(devices, 500), signal);

  const rules = { gate: { succeededPercent: 100, soakSeconds: 3 }, pace: { inFlightMax: 10 } };
  const good = {
    ...rules,
    name: 'Version 1.1.0, without trouble',
    release: await publish('1.1.0'),
    targets: { filter: `attributes.hardware==${hardware};name!=${unluckySerial}` },
    waves: [{ count: 1 }, {}],
  };
  const bad = {
    ...rules,
    name: 'Version 1.2.0, which goes back by itself',
    release: await publish('1.2.0'),
    targets: { filter: `attributes.hardware==${hardware}` },
    waves: [{ filter: `name!=${unluckySerial}` }, {}],
    limits: [{ kind: 'FAILED', count: 1, then: 'undo' }],
  };
  for (const rollout of [good, bad]) {
    const { id } = identified.parse(await call('POST', '/v1/rollouts', rollout));
    const ends = ['FINISHED', 'UNDONE', 'STOPPED', 'PAUSED'];
    await until(async () => ends.includes(stated.parse(await call('GET', `/v1/rollouts/${id}`)).state), signal);
  }
  const [first] = named.parse(await call('GET', `/v1/devices?filter=attributes.hardware==${hardware}&limit=1`)).items;
  if (first) await call('POST', `/v1/devices/${first.name}/rotations`);

  async function call(method: string, path: string, body?: object): Promise<unknown> {
    const answer = await request(api, method, path, body, signal);
    if (!answer.ok) throw await refused(`${method} ${path}`, answer);
    return answer.json();
  }

  async function publish(version: string): Promise<string> {
    const image = Buffer.from(`the image of ${product} ${version}\n`.repeat(2_000));
    const sha256 = createHash('sha256').update(image).digest('hex');
    await call('PUT', `/v1/artifacts/${sha256}`, image);
    const artifact = { sha256, size: image.length, name: `${product}-${version}.bin` };
    const expires = new Date(Date.now() + 365 * 86_400_000).toISOString();
    const said = { product, version, hardware: [hardware], artifact, securityCounter: 1, expires };
    const manifest = await signManifest(Buffer.from(JSON.stringify(said)), privateKey);
    return identified.parse(await call('POST', '/v1/releases', { artifact: sha256, manifest })).id;
  }
}

async function until(isSo: () => Promise<boolean>, signal: AbortSignal): Promise<void> {
  while (!(await isSo())) await pause(pollMs, undefined, { signal });
}
