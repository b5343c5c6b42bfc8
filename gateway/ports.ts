import { createHash, type X509Certificate } from 'node:crypto';
import { once } from 'node:events';
import { createServer as createTcpServer, type AddressInfo, type Server, type Socket } from 'node:net';
import { createServer as createTlsServer, type TLSSocket } from 'node:tls';
import type { Limits } from './limits.ts';
import { createBucket, createBuckets } from './throttle.ts';

export type Tls = {
  /** The gateway's own certificate (chain, leaf first) and key, PEM. */
  certificatePem: string;
  privateKeyPem: string;
  /** Who may have issued the certificates of clients: root and issuing authorities, and manufacturers'. */
  authoritiesPem: string[];
  /** 48 bytes; the same on every gateway that shall take up the others' TLS sessions. */
  ticketKeys?: Buffer | undefined;
};

/**
 * A door without TLS, for measurements: thousands of devices that are one process. It opens on 127.0.0.1 and nowhere else,
 * and only for code that hands it over: no setting of a gateway leads here.
 */
export type PlainDoor = {
  /** 0 for any free one. */
  port: number;
  /** The SHA-256 of the certificate that the client would have shown; undefined turns it away. */
  identify: (socket: Socket) => Promise<Buffer | undefined>;
};

export type Ports = {
  port: number;
  extraPort: number | undefined;
  plainPort: number | undefined;
  /** From the next handshake on, these authorities (PEM) are trusted and no others; open connections stay. */
  trust(authoritiesPem: string[]): void;
  /** Takes no new connections; those there are stay. */
  close(): void;
};

export type OpenPorts = {
  host: string;
  /** 0 for any free one. */
  port: number;
  extraPort?: number | undefined;
  plainDoor?: PlainDoor | undefined;
  tls: Tls;
  limits: Limits;
  /** A connection whose client has proved the key of its certificate, given with the SHA-256 of that. */
  connected: (socket: Socket, fingerprint: Buffer) => void;
  /** A handshake that failed, or was cut off because there were too many. */
  failed: (reason: 'rate' | 'handshake') => void;
};

/**
 * Listens with mutual TLS. Which of the authorities' certificates are good is not judged here: the row decides, at each
 * CONNECT, and so also where the TLS session was resumed and no certificate was sent.
 */
export async function openPorts(deps: OpenPorts): Promise<Ports> {
  const { host, port, extraPort, plainDoor, tls, limits, connected, failed } = deps;
  const secured = createTlsServer({
    ...contextOf(tls),
    requestCert: true,
    rejectUnauthorized: true,
    ALPNProtocols: ['x-amzn-mqtt-ca', 'mqtt'],
    handshakeTimeout: limits.handshakeWithinMs,
  });
  secured.on('secureConnection', (socket) => {
    const fingerprint = fingerprintOf(socket);
    if (fingerprint) connected(socket, fingerprint);
    else socket.destroy();
  });
  secured.on('tlsClientError', (_, socket) => {
    failed('handshake');
    socket.destroy();
  });

  const everybody = createBucket(limits.handshakesPerSecond);
  const addresses = createBuckets(limits.handshakesPerSecondPerAddress);
  const accept = (socket: Socket) => {
    socket.on('error', () => socket.destroy());
    if (addresses.take(socket.remoteAddress ?? '') && everybody.take()) return secured.emit('connection', socket);
    failed('rate');
    return socket.resetAndDestroy();
  };
  const servers = [await listenTcp(host, port, accept)];
  if (extraPort !== undefined) servers.push(await listenTcp(host, extraPort, accept));
  const [first, extra] = servers.map((server) => portOf(server));
  const plain = plainDoor && (await openPlainDoor(plainDoor, connected));
  if (plain) servers.push(plain);
  return {
    port: first ?? port,
    extraPort: extra,
    plainPort: plain && portOf(plain),
    trust: (authoritiesPem) => secured.setSecureContext(contextOf({ ...tls, authoritiesPem })),
    close: () => servers.forEach((server) => server.close()),
  };
}

const contextOf = ({ certificatePem, privateKeyPem, authoritiesPem, ticketKeys }: Tls) => ({
  cert: certificatePem,
  key: privateKeyPem,
  ca: authoritiesPem,
  minVersion: 'TLSv1.2' as const,
  // Node's own default differs between processes, and a session resumes in its context only.
  sessionIdContext: 'longhaul',
  ...(ticketKeys && { ticketKeys }),
});

function openPlainDoor({ port, identify }: PlainDoor, connected: OpenPorts['connected']): Promise<Server> {
  return listenTcp('127.0.0.1', port, (socket) => {
    socket.on('error', () => socket.destroy());
    identify(socket).then(
      (fingerprint) => (fingerprint ? connected(socket, fingerprint) : socket.destroy()),
      () => socket.destroy(),
    );
  });
}

async function listenTcp(host: string, port: number, accept: (socket: Socket) => void): Promise<Server> {
  const server = createTcpServer({ noDelay: true, keepAlive: true, keepAliveInitialDelay: 60_000 }, accept);
  server.listen({ host, port, backlog: 4_096 });
  await once(server, 'listening');
  return server;
}

// A server that listens on a port has an AddressInfo.
const portOf = (server: Server) => (server.address() as AddressInfo).port;

function fingerprintOf(socket: TLSSocket): Buffer | undefined {
  const certificate: X509Certificate | undefined = socket.getPeerX509Certificate();
  return certificate && createHash('sha256').update(certificate.raw).digest();
}
