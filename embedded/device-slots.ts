import { createHash } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { link, mkdir, open, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { pipeline } from 'node:stream/promises';
import { removeDurably, renameDurably, writeDurably } from './device-disk.ts';
import type { PublicKeys } from './device-jws.ts';
import { openManifest, type Manifest } from './device-manifest.ts';
import type { Power } from './device-power.ts';
import { readFileIfThere } from './secret-files.ts';

type SlotName = 'a' | 'b';

/** What the boot loader knows; `boot.json`. */
type Boot = {
  active: SlotName;
  /** Anti-rollback: the lowest `securityCounter` that is taken. */
  counter: number;
  /** For which update the slot is tried, and how many more times it may come up without being confirmed. */
  trying?: { slot: SlotName; update: string; triesLeft: number };
  /** How the last update that was tried ended: `failed` says why, when it did. */
  tried?: { update: string; failed?: string };
};

/** What stands beside an image. The factory's image has no manifest. */
type Label = { version: string; securityCounter: number; sha256?: string; manifest?: string };

export type Running = { version: string; sha256?: string; /** The update for which it is on trial. */ trial?: string };

export type Slots = {
  /** What has booted. It stays so until the next power-on. */
  running: Running;
  counter(): number;
  /** How the update ended, if it is the one that was tried last. */
  outcomeOf(update: string): { failed?: string } | undefined;
  /** Whether the other slot has what this manifest says, and was not given up. */
  otherHolds(manifest: string): Promise<boolean>;
  /** Replaces the other slot. `image` stays where it is. */
  install(image: string, jws: string, manifest: Manifest): Promise<void>;
  /** From the next power-on the other slot is tried. */
  arm(update: string): Promise<void>;
  /** What is on trial stays. */
  confirm(): Promise<void>;
  /** What is on trial does not stay: the next power-on boots the old image. */
  giveUp(why: string): Promise<void>;
  /** Empties the other slot. */
  clearOther(): Promise<void>;
  /** A fault: the next power-on boots the other slot, as if nobody had ever tried this one. */
  revert(): Promise<void>;
  /** The first bytes of what runs. */
  readHead(): Promise<string>;
};

export type SlotsDeps = {
  folder: string;
  factory: { version: string; securityCounter?: number };
  keys: PublicKeys;
  power: Power;
};

const triesMax = 3;
const headLength = 64;
const otherThan = (slot: SlotName): SlotName => (slot === 'a' ? 'b' : 'a');

/**
 * The boot loader, and the two slots that it chooses from. A slot on trial is booted when its manifest and digest are
 * right, three times at most; unless it is confirmed the device then is what it was before, by itself. Each change is
 * one file or folder renamed, so a power cut leaves the state before it or the one after.
 */
export async function boot({ folder, factory, keys, power }: SlotsDeps): Promise<Slots> {
  const slots = join(folder, 'slots');
  const bootFile = join(folder, 'boot.json');
  const pathOf = (slot: SlotName, file = '') => join(slots, slot, file);
  const labelOf = async (slot: SlotName): Promise<Label | undefined> => {
    const text = await readFileIfThere(pathOf(slot, 'label.json'));
    // Only `install` and `leaveFactory` below write it.
    return text === undefined ? undefined : JSON.parse(text);
  };
  const keep = async (next: Boot): Promise<Boot> => {
    await writeDurably(bootFile, `${JSON.stringify(next, null, 2)}\n`);
    return next;
  };

  const kept = await readFileIfThere(bootFile);
  // Only `keep` writes it.
  let state: Boot = kept === undefined ? await leaveFactory() : JSON.parse(kept);
  if (state.trying) {
    state = await keep(await countTry(state, state.trying));
    power.reach('counted');
  }
  const slot = state.trying?.slot ?? state.active;
  const other = otherThan(slot);
  const label = await labelOf(slot);
  if (!label) throw new Error(`slot ${slot} is empty`);
  const running: Running = {
    version: label.version,
    ...(label.sha256 !== undefined && { sha256: label.sha256 }),
    ...(state.trying && { trial: state.trying.update }),
  };

  /** Nothing is lost with the power here: without `boot.json` it is made again. */
  async function leaveFactory(): Promise<Boot> {
    const { version, securityCounter = 0 } = factory;
    await rm(slots, { recursive: true, force: true });
    await mkdir(pathOf('a'), { recursive: true, mode: 0o700 });
    await writeFile(pathOf('a', 'image'), `factory image ${version}\n`, { mode: 0o600 });
    const made: Label = { version, securityCounter };
    await writeFile(pathOf('a', 'label.json'), JSON.stringify(made), { mode: 0o600 });
    return keep({ active: 'a', counter: securityCounter });
  }

  async function countTry({ active, counter }: Boot, trying: NonNullable<Boot['trying']>): Promise<Boot> {
    const { slot: tried, update, triesLeft } = trying;
    const failed = triesLeft === 0 ? 'BOOT_FAILED: it did not come up' : await faultOf(tried);
    if (failed !== undefined) return { active, counter, tried: { update, failed } };
    return { active, counter, trying: { ...trying, triesLeft: triesLeft - 1 } };
  }

  /** What a secure boot finds wrong with a slot. */
  async function faultOf(tried: SlotName): Promise<string | undefined> {
    const { manifest = '' } = (await labelOf(tried)) ?? {};
    try {
      const { artifact } = openManifest(manifest, keys);
      const digest = createHash('sha256');
      await pipeline(createReadStream(pathOf(tried, 'image')), digest);
      return digest.digest('hex') === artifact.sha256 ? undefined : 'BOOT_FAILED: the image is damaged';
    } catch (error) {
      return `BOOT_FAILED: ${error instanceof Error ? error.message : String(error)}`;
    }
  }

  /** Ends the trial. */
  async function decide(failed?: string): Promise<void> {
    const { active, counter, trying } = state;
    if (!trying || !label) throw new Error('nothing is on trial');
    const { update } = trying;
    state = await keep(
      failed === undefined
        ? { active: slot, counter: label.securityCounter, tried: { update } }
        : { active, counter, tried: { update, failed } },
    );
  }

  return {
    running,
    counter: () => state.counter,
    outcomeOf: (update) => (state.tried?.update === update ? state.tried : undefined),
    otherHolds: async (manifest) => (await labelOf(other))?.manifest === manifest,
    async install(image, jws, { version, securityCounter, artifact: { sha256 } }) {
      const fresh = `${pathOf(other)}.new`;
      await rm(fresh, { recursive: true, force: true });
      await mkdir(fresh, { mode: 0o700 });
      await link(image, join(fresh, 'image'));
      const installed: Label = { version, securityCounter, sha256, manifest: jws };
      await writeDurably(join(fresh, 'label.json'), JSON.stringify(installed));
      power.reach('written');
      await removeDurably(pathOf(other));
      power.reach('erased');
      await renameDurably(fresh, pathOf(other));
      power.reach('installed');
    },
    async arm(update) {
      const { active, counter } = state;
      state = await keep({ active, counter, trying: { slot: other, update, triesLeft: triesMax } });
      power.reach('armed');
    },
    confirm: () => decide(),
    giveUp: (why) => decide(why),
    clearOther: () => removeDurably(pathOf(other)),
    async revert() {
      state = await keep({ active: other, counter: state.counter });
    },
    async readHead() {
      await using image = await open(pathOf(slot, 'image'));
      const { buffer, bytesRead } = await image.read(Buffer.alloc(headLength), 0, headLength, 0);
      return buffer.toString('latin1', 0, bytesRead);
    },
  };
}
