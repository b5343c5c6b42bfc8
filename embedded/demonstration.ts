import { createHash } from 'node:crypto';
import { join } from 'node:path';
import { setTimeout as pause } from 'node:timers/promises';
import { z } from 'zod';
import { describeKey, makeReleaseKey, readPrivateKey } from '../pki/release-keys.ts';
import { signManifest } from '../pki/manifests.ts';
import type { Api } from './fleet-entrance.ts';
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
const listed = z.object({ items: z.array(z.unknown()) });

const keyFileOf = (dataDir: string): string => join(dataDir, 'release-key.pem');

/** The key that signs the demonstration's releases, as a release engineer would keep it; made at the first start. */
export async function ensureReleaseKey(dataDir: string): Promise<{ publicKeyPem: string }> {
  const file = keyFileOf(dataDir);
  if ((await readFileIfThere(file)) === undefined) await writeSecretFile(file, makeReleaseKey('ES256'));
  return describeKey(readPrivateKey((await readFileIfThere(file)) ?? ''));
}

/**
 * Shows two small rollouts, as any operator would make them, through the public API: one that goes well, and one whose
 * unlucky device breaks the limit, so that all that were updated go back. Returns when they have ended.
 */
export async function demonstrate(api: Api, dataDir: string, devices: number, signal: AbortSignal): Promise<void> {
  const call = caller(api, signal);
  const key = await ensureReleaseKey(dataDir);
  await call('POST', '/v1/release-keys', { name: 'demonstration', publicKeyPem: key.publicKeyPem });
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

  async function publish(version: string): Promise<string> {
    const image = Buffer.from(`the image of ${product} ${version}\n`.repeat(2_000));
    const sha256 = createHash('sha256').update(image).digest('hex');
    await call('PUT', `/v1/artifacts/${sha256}`, image);
    const artifact = { sha256, size: image.length, name: `${product}-${version}.bin` };
    const expires = new Date(Date.now() + 365 * 86_400_000).toISOString();
    const said = { product, version, hardware: [hardware], artifact, securityCounter: 1, expires };
    const privateKey = readPrivateKey((await readFileIfThere(keyFileOf(dataDir))) ?? '');
    const manifest = await signManifest(Buffer.from(JSON.stringify(said)), privateKey);
    return identified.parse(await call('POST', '/v1/releases', { artifact: sha256, manifest })).id;
  }
}

function caller({ url, token }: Api, signal: AbortSignal) {
  return async (method: string, path: string, body?: object): Promise<unknown> => {
    const isBytes = body instanceof Uint8Array;
    const type = isBytes ? 'application/octet-stream' : 'application/json';
    const answer = await fetch(new URL(path, url), {
      method,
      signal,
      headers: { authorization: `Bearer ${token}`, ...(body && { 'content-type': type }) },
      ...(body && { body: isBytes ? new Blob([Uint8Array.from(body)]) : JSON.stringify(body) }),
    });
    if (!answer.ok) throw new Error(`the API refused ${method} ${path}: ${answer.status} ${await answer.text()}`);
    return answer.json();
  };
}

async function until(isSo: () => Promise<boolean>, signal: AbortSignal): Promise<void> {
  while (!(await isSo())) await pause(pollMs, undefined, { signal });
}
