import { once } from 'node:events';
import type { AddressInfo, Server } from 'node:net';
import type { TlsOptions } from 'node:tls';

/** PEM: the gateway's own certificate and key, and the authorities it believes. */
export type TlsFiles = { certificatePem: string; privateKeyPem: string; authoritiesPem: string[] };

/** As the gateway sets up its own. */
export const tlsOptions = ({ certificatePem, privateKeyPem, authoritiesPem }: TlsFiles): TlsOptions => ({
  cert: certificatePem,
  key: privateKeyPem,
  ca: authoritiesPem,
  requestCert: true,
  rejectUnauthorized: true,
  minVersion: 'TLSv1.2',
  ALPNProtocols: ['mqtt'],
  noDelay: true,
});

/** On a free port of this machine; the port. */
export async function listen(server: Server): Promise<number> {
  server.listen({ host: '127.0.0.1', port: 0, backlog: 4_096 });
  await once(server, 'listening');
  // A server that listens on a port has an AddressInfo.
  return (server.address() as AddressInfo).port;
}
