import { createHash } from 'node:crypto';
import { once } from 'node:events';
import type { Socket } from 'node:net';

const bytes = 32;

/** What stands for a device's certificate where there is no TLS: the fingerprint that its row has. */
export const fingerprintOf = (name: string): Buffer => createHash('sha256').update(name).digest();

/** Takes it off a new connection, before the first packet. */
export async function readFingerprint(socket: Socket): Promise<Buffer | undefined> {
  while (!socket.readableEnded) {
    // A socket without an encoding gives buffers.
    const said = socket.read(bytes) as Buffer | null;
    if (said) return said.length === bytes ? said : undefined;
    await once(socket, 'readable');
  }
  return undefined;
}
