import { randomBytes } from 'node:crypto';
import { EventEmitter } from 'node:events';
import { mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, inject, test } from 'vitest';
import { download, type Download } from '../../embedded/device-download.ts';
import { fetchOver } from '../../embedded/device-http.ts';
import { switchOn, type PowerStep } from '../../embedded/device-power.ts';
import type { DeviceEvents } from '../../embedded/device.ts';
import { createAuthorities } from '../../pki/authority.ts';
import { makeDatabase } from '../support/database.ts';
import { createFleet, type Fleet } from '../support/gateway.ts';
import { serveArtifacts, type Artifacts } from './artifacts.ts';

const rig = new AsyncDisposableStack();
let artifacts: Artifacts;
let fleet: Fleet;
beforeAll(async () => {
  artifacts = rig.use(await serveArtifacts());
  fleet = await createFleet(rig.use(await makeDatabase()).db);
});
afterAll(() => rig.disposeAsync());

function powerOn(failsAt: (step: PowerStep) => boolean = () => false) {
  const events = new EventEmitter<DeviceEvents>();
  return switchOn({ powered: new AbortController().signal, events, failsAt, goodbye: async () => {} });
}

/** A megabyte, so that it comes in many pieces. */
function wantedOf(change: Partial<Download> = {}) {
  const content = artifacts.put(randomBytes(1_000_000));
  const folder = join(inject('folder'), `download-${randomBytes(4).toString('hex')}`);
  const power = powerOn();
  const wanted: Download = {
    folder,
    sha256: content.sha256,
    size: content.size,
    address: content.url,
    power,
    backOffMs: 5,
    fetch: fetchOver({ ca: () => fleet.authority.rootPem, inReach: async () => power.signal }),
    renew: async () => content.url,
    ...change,
  };
  return { content, wanted };
}

describe('a download', () => {
  test('is the file, whole and checked', async () => {
    const { content, wanted } = wantedOf();
    const file = await download(wanted);
    expect(readFileSync(file ?? '').equals(content.bytes)).toBe(true);
    expect(readdirSync(wanted.folder)).toEqual([content.sha256]);
    expect(artifacts.asked(content)).toHaveLength(1);
  });

  test('goes on where a lost connection has cut it', async () => {
    const { content, wanted } = wantedOf();
    let cuts = 0;
    artifacts.intercept(({ range }, answer) => {
      if (!range?.startsWith('bytes=') && cuts > 0) return false;
      if ((cuts += 1) > 3) return false;
      const from = Number(range?.slice('bytes='.length, -1) ?? 0);
      answer.writeHead(from ? 206 : 200, {
        'content-range': `bytes ${from}-999999/1000000`,
        'content-length': 1e6 - from,
      });
      answer.write(content.bytes.subarray(from, from + 200_000), () => answer.destroy());
      return true;
    });
    const file = await download(wanted);
    artifacts.intercept(undefined);
    expect(readFileSync(file ?? '').equals(content.bytes)).toBe(true);
    const ranges = artifacts.asked(content).map(({ range }) => range);
    expect(ranges[0]).toBeUndefined();
    expect(new Set(ranges.slice(1)).size).toBeGreaterThan(1);
    expect(ranges.slice(1)).toEqual(ranges.slice(1).map(() => expect.stringMatching(/^bytes=[1-9]\d*-$/)));
  });

  test('goes on after a power cut, and asks for the rest only', async () => {
    let chunks = 0;
    const cut = wantedOf({ power: powerOn((step) => step === 'downloading' && (chunks += 1) === 3) });
    await expect(download(cut.wanted)).rejects.toThrow('aborted');
    const file = await download({ ...cut.wanted, power: powerOn() });
    expect(readFileSync(file ?? '').equals(cut.content.bytes)).toBe(true);
    const [first, second] = artifacts.asked(cut.content);
    expect(first?.range).toBeUndefined();
    expect(second?.range).toMatch(/^bytes=[1-9]\d*-$/);
  });

  test('begins anew when what was left of an earlier one is not what was signed', async () => {
    const { content, wanted } = wantedOf();
    mkdirSync(wanted.folder);
    writeFileSync(join(wanted.folder, `${content.sha256}.part`), randomBytes(1_000));
    writeFileSync(join(wanted.folder, 'another'), 'of an older job');
    const file = await download(wanted);
    expect(readFileSync(file ?? '').equals(content.bytes)).toBe(true);
    expect(artifacts.asked(content).map(({ range }) => range)).toEqual(['bytes=1000-', undefined]);
    expect(readdirSync(wanted.folder)).toEqual([content.sha256]);
  });

  test('takes the whole from a server that knows no ranges', async () => {
    const { content, wanted } = wantedOf();
    mkdirSync(wanted.folder);
    writeFileSync(join(wanted.folder, `${content.sha256}.part`), randomBytes(1_000));
    artifacts.intercept((_, answer) => {
      answer.writeHead(200).end(content.bytes);
      return true;
    });
    const file = await download(wanted);
    artifacts.intercept(undefined);
    expect(readFileSync(file ?? '').equals(content.bytes)).toBe(true);
  });

  test('asks for another address when its own has ceased to serve', async () => {
    const fresh = artifacts.put(randomBytes(1_000));
    const { sha256, size, url } = fresh;
    const renewals: string[] = [];
    const renew = async () => {
      renewals.push('asked');
      return `${url}?signature=fresh`;
    };
    artifacts.intercept(({ path }, answer) => {
      if (path.endsWith('fresh')) return false;
      answer.writeHead(403).end();
      return true;
    });
    const { wanted } = wantedOf({ sha256, size, address: `${url}?signature=stale`, renew });
    expect(await download(wanted)).toMatch(sha256);
    expect(renewals).toEqual(['asked']);
    expect(
      await download(wantedOf({ sha256, size, address: url, renew: async () => undefined }).wanted),
    ).toBeUndefined();
    artifacts.intercept(undefined);
  });

  test('waits as long as a busy server says', async () => {
    const { content, wanted } = wantedOf();
    let refusals = 0;
    artifacts.intercept((_, answer) => {
      if ((refusals += 1) > 12) return false;
      answer.writeHead(503, { 'retry-after': '0.001' }).end();
      return true;
    });
    expect(await download(wanted)).toMatch(content.sha256);
    artifacts.intercept(undefined);
    expect(artifacts.asked(content)).toHaveLength(13);
  });

  test.each([
    ['other bytes', 'WRONG_DIGEST', (content: Buffer) => Buffer.concat([content.subarray(1), Buffer.of(0)])],
    ['a byte more', 'WRONG_SIZE', (content: Buffer) => Buffer.concat([content, Buffer.of(0)])],
  ])('of %s is refused, and nothing of it is kept', async (_, code, change) => {
    const { content, wanted } = wantedOf();
    artifacts.intercept((__, answer) => {
      answer.writeHead(200).end(change(content.bytes));
      return true;
    });
    await expect(download(wanted)).rejects.toThrow(code);
    artifacts.intercept(undefined);
    expect(readdirSync(wanted.folder)).toEqual([]);
  });

  test('of fewer bytes than were signed is refused', async () => {
    const { content, wanted } = wantedOf();
    await expect(download({ ...wanted, size: content.size + 1 })).rejects.toThrow('WRONG_SIZE');
    expect(readdirSync(wanted.folder)).toEqual([]);
  });

  test('is given up after a while when nothing comes', async () => {
    const { wanted } = wantedOf({ address: 'http://127.0.0.1:1/artifacts' });
    await expect(download({ ...wanted, backOffMs: 1 })).rejects.toThrow('NOT_DOWNLOADED');
  });

  test('trusts the root that the device has, and no other', async () => {
    const { certificatePem: cert, privateKeyPem } = fleet.server;
    await using secure = await serveArtifacts({ cert, key: privateKeyPem });
    const { sha256, size, url } = secure.put(randomBytes(1_000));
    const { wanted } = wantedOf({ sha256, size, address: url });
    expect(await download(wanted)).toMatch(sha256);

    const { root } = await createAuthorities({ keyEncryptionKey: randomBytes(32) });
    const blind = fetchOver({ ca: () => root.certificatePem, inReach: async () => wanted.power.signal });
    const untrusting = wantedOf({ sha256, size, address: url, fetch: blind, backOffMs: 1 });
    await expect(download(untrusting.wanted)).rejects.toThrow('NOT_DOWNLOADED');
    expect(secure.asked({ sha256 })).toHaveLength(1);
  });
});
