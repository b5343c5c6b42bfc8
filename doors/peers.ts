import { hash } from 'node:crypto';
import type { TLSSocket } from 'node:tls';
import type { HttpBindings } from '@hono/node-server';
import { findHolder, type CertificateHolder } from '../db/identities.ts';
import type { Db } from '../db/client.ts';
import { refusal } from '../workflows/refusals.ts';
import { findManufactured, presentedBy, type Manufactured } from './manufacturers.ts';

/** Where a request comes from. There is no proxy before this server: TLS ends here. */
export const addressOf = ({ incoming }: HttpBindings): string => incoming.socket.remoteAddress ?? '';

/** These are refused whatever else is shown; one that has merely ended permits nothing, and is no reproach. */
const outlawed = new Set<CertificateHolder['refusal']>(['CertificateRevoked', 'DeviceBlocked']);

/**
 * Whose certificate the client has shown, by its row as it is now. Undefined where it has shown none, or one that we did not
 * issue. One that is revoked, or of a blocked device, is a refusal.
 */
export async function findPeer(db: Db, { incoming }: HttpBindings): Promise<CertificateHolder | undefined> {
  // The server of these requests speaks TLS only.
  const certificate = (incoming.socket as TLSSocket).getPeerX509Certificate();
  if (!certificate) return undefined;
  const holder = await findHolder(db, hash('sha256', certificate.raw, 'buffer'));
  if (holder && outlawed.has(holder.refusal)) throw certificateRefused(holder.refusal);
  return holder;
}

/** The device of a registered manufacturer, where the handshake has proven its certificate, which no row knows. */
export const findManufacturedPeer = (db: Db, { incoming }: HttpBindings): Promise<Manufactured | undefined> =>
  findManufactured(db, presentedBy(incoming.socket));

export const certificateRefused = (code: CertificateHolder['refusal']) =>
  refusal(code ?? 'CertificateNotActive', 'the certificate that was shown permits nothing', 403);
