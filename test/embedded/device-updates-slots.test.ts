import { randomBytes } from 'node:crypto';
import { EventEmitter } from 'node:events';
import { mkdirSync, readdirSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, inject, test } from 'vitest';
import { readPublicKeys } from '../../embedded/device-jws.ts';
import { openManifest } from '../../embedded/device-manifest.ts';
import { switchOn, type PowerStep } from '../../embedded/device-power.ts';
import { boot, type Slots } from '../../embedded/device-slots.ts';
import type { DeviceEvents } from '../../embedded/device.ts';
import { contentOf, makeReleaseKey, manifestOf } from './releases.ts';

const key = makeReleaseKey();
const keys = readPublicKeys([key.publicKeyPem]);
const factory = { version: '1.0.0', securityCounter: 3 };

function makeDisk() {
  const folder = join(inject('folder'), `slots-${randomBytes(4).toString('hex')}`);
  mkdirSync(folder);
  return {
    folder,
    switchOn(failsAt: (step: PowerStep) => boolean = () => false): Promise<Slots> {
      const events = new EventEmitter<DeviceEvents>();
      const power = switchOn({ powered: new AbortController().signal, events, failsAt, goodbye: async () => {} });
      return boot({ folder, factory, keys, power });
    },
  };
}

async function install(slots: Slots, folder: string, change: object = {}): Promise<string> {
  const content = contentOf(randomBytes(1_000));
  const jws = key.sign(manifestOf(content, { securityCounter: 4, ...change }));
  const image = join(folder, 'image');
  writeFileSync(image, content.bytes);
  await slots.install(image, jws, openManifest(jws, keys));
  return jws;
}

describe('a boot loader', () => {
  test('boots what the factory left, for ever', async () => {
    const { folder, switchOn: on } = makeDisk();
    const slots = await on();
    expect(slots.running).toEqual({ version: '1.0.0' });
    expect(slots.counter()).toBe(3);
    expect(statSync(join(folder, 'boot.json')).mode & 0o777).toBe(0o600);
    expect(statSync(join(folder, 'slots')).mode & 0o777).toBe(0o700);
    expect((await on()).running).toEqual({ version: '1.0.0' });
  });

  test('tries what is armed, and keeps what is confirmed', async () => {
    const { folder, switchOn: on } = makeDisk();
    const first = await on();
    const jws = await install(first, folder);
    expect(await first.otherHolds(jws)).toBe(true);
    expect((await on()).running).toEqual({ version: '1.0.0' });

    await first.arm('job-1');
    const second = await on();
    expect(second.running).toMatchObject({ version: '2.0.0', trial: 'job-1' });
    expect(second.counter()).toBe(3);
    await second.confirm();
    expect(second.outcomeOf('job-1')).toEqual({ update: 'job-1' });

    const third = await on();
    expect(third.running).toEqual({ version: '2.0.0', sha256: second.running.sha256 });
    expect(third.counter()).toBe(4);
    expect(third.outcomeOf('job-1')?.failed).toBeUndefined();
    expect(third.outcomeOf('job-2')).toBeUndefined();
    expect(readdirSync(join(folder, 'slots')).toSorted()).toEqual(['a', 'b']);
  });

  test('goes back from what is given up, and from what was not confirmed in three tries', async () => {
    const { folder, switchOn: on } = makeDisk();
    const slots = await on();
    await install(slots, folder);
    await slots.arm('job-1');
    await (await on()).giveUp('UNHEALTHY: so it is');
    expect((await on()).running).toEqual({ version: '1.0.0' });
    expect((await on()).outcomeOf('job-1')?.failed).toBe('UNHEALTHY: so it is');

    await slots.arm('job-2');
    const versions: string[] = [];
    for (let count = 0; count < 5; count += 1) versions.push((await on()).running.version);
    expect(versions).toEqual(['2.0.0', '2.0.0', '2.0.0', '1.0.0', '1.0.0']);
    const last = await on();
    expect(last.outcomeOf('job-2')?.failed).toMatch('BOOT_FAILED');
    expect(last.counter()).toBe(3);
  });

  test('counts a try before it boots', async () => {
    const { folder, switchOn: on } = makeDisk();
    const slots = await on();
    await install(slots, folder);
    await slots.arm('job-1');
    for (let count = 0; count < 3; count += 1)
      await expect(on((step) => step === 'counted')).rejects.toThrow('aborted');
    expect((await on()).running).toEqual({ version: '1.0.0' });
  });

  test('boots no image that is not what its manifest says', async () => {
    const { folder, switchOn: on } = makeDisk();
    const slots = await on();
    await install(slots, folder);
    await slots.arm('job-1');
    writeFileSync(join(folder, 'slots/b/image'), randomBytes(1_000));
    const after = await on();
    expect(after.running).toEqual({ version: '1.0.0' });
    expect(after.outcomeOf('job-1')?.failed).toMatch('damaged');
  });

  test('boots no image by a manifest that nobody signed', async () => {
    const { folder, switchOn: on } = makeDisk();
    const slots = await on();
    const jws = await install(slots, folder);
    await slots.arm('job-1');
    const label = join(folder, 'slots/b/label.json');
    const [header, , signature] = jws.split('.');
    const forged = [header, Buffer.from('{}').toString('base64url'), signature].join('.');
    writeFileSync(label, readFileSync(label, 'utf8').replace(jws, forged));
    const after = await on();
    expect(after.running).toEqual({ version: '1.0.0' });
    expect(after.outcomeOf('job-1')?.failed).toMatch('BAD_SIGNATURE');
  });

  test('takes the counter of a signed way down', async () => {
    const { folder, switchOn: on } = makeDisk();
    const slots = await on();
    await install(slots, folder, { securityCounter: 1, downgrade: true });
    await slots.arm('job-1');
    await (await on()).confirm();
    expect((await on()).counter()).toBe(1);
  });

  test.each(['written', 'erased', 'installed', 'armed'] as const)(
    'boots the old image after a power cut while the new one is %s',
    async (step) => {
      const { folder, switchOn: on } = makeDisk();
      await (await on()).clearOther();
      const slots = await on((reached) => reached === step);
      const cut = install(slots, folder).then(() => slots.arm('job-1'));
      await expect(cut).rejects.toThrow('aborted');
      const after = await on();
      expect(after.running.version).toBe(step === 'armed' ? '2.0.0' : '1.0.0');
      if (step === 'armed') return;
      await install(after, folder);
      await after.arm('job-2');
      expect((await on()).running).toMatchObject({ version: '2.0.0', trial: 'job-2' });
    },
  );
});
