import { createHmac, timingSafeEqual } from 'node:crypto';

/** Whom an address was made for, and what it leads to. */
export type Addressed = {
  /** The content's digest: 64 lower-case hexadecimal digits. */
  sha256: string;
  deviceId: string;
  jobId: string;
};

export type Addresses = {
  /** The address of this content for this device, good for the lifetime and as long as the device has this job to do. */
  sign(addressed: Addressed): string;
  /** Reads an address, whole or from its path on, that nobody has changed by a character and that has not expired. */
  verify(url: string): { addressed: Addressed } | { refused: 'malformed' | 'tampered' | 'expired' };
};

export type AddressOptions = {
  /** Where the files are served, such as `https://files.example:8443`; a path in it is for whoever stands in front. */
  base: string;
  /** 32 bytes, the same wherever addresses are made or read. */
  key: Uint8Array;
  lifetimeSeconds: number;
  now?: () => number;
};

const keyBytesMin = 32;
const uuid = '[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}';
/** Exactly what `sign` writes: nothing may be added, left out, said twice or in another order. */
const pattern = new RegExp(
  `/artifacts/(?<sha256>[0-9a-f]{64})\\?device=(?<deviceId>${uuid})&job=(?<jobId>${uuid})` +
    `&expires=(?<expires>[1-9]\\d{0,11})&signature=(?<signature>[A-Za-z0-9_-]{43})$`,
);

/**
 * Makes and reads the addresses under which devices fetch content: HMAC-SHA256 over all that they say, so that whoever
 * has the key can tell its own. An address is a permission for as long as it lives: it belongs into a device's job and
 * nowhere else.
 */
export function createAddresses({ base, key, lifetimeSeconds, now = Date.now }: AddressOptions): Addresses {
  if (key.length < keyBytesMin) throw new Error(`the key of the addresses has less than ${keyBytesMin} bytes`);
  const origin = base.replace(/\/+$/, '');
  const signatureOf = ({ sha256, deviceId, jobId }: Addressed, expires: string) =>
    createHmac('sha256', key)
      .update(`longhaul artifact\n${sha256}\n${deviceId}\n${jobId}\n${expires}`)
      .digest('base64url');

  return {
    sign(addressed) {
      const { sha256, deviceId, jobId } = addressed;
      const expires = String(Math.floor(now() / 1_000) + lifetimeSeconds);
      const query = `device=${deviceId}&job=${jobId}&expires=${expires}&signature=${signatureOf(addressed, expires)}`;
      return `${origin}/artifacts/${sha256}?${query}`;
    },
    verify(url) {
      const { sha256, deviceId, jobId, expires, signature } = pattern.exec(url)?.groups ?? {};
      if (!sha256 || !deviceId || !jobId || !expires || !signature) return { refused: 'malformed' };
      const addressed = { sha256, deviceId, jobId };
      // Compared as text: the last of the 43 characters has two bits that stand for nothing, and may not be others.
      const expected = Buffer.from(signatureOf(addressed, expires));
      if (!timingSafeEqual(Buffer.from(signature), expected)) return { refused: 'tampered' };
      return Number(expires) * 1_000 > now() ? { addressed } : { refused: 'expired' };
    },
  };
}
