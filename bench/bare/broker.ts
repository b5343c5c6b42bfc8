import { createServer as createPlainServer } from 'node:net';
import { createServer } from 'node:tls';
import { Aedes, type Client } from 'aedes';
import { generate } from 'mqtt-packet';
import { readFingerprint } from '../door.ts';
import { listen, tlsOptions, type TlsFiles } from './tls.ts';

/** Answers each report from memory, to the device that sent it, as the gateway does once it has committed. */
export async function startBroker(tls: TlsFiles): Promise<number> {
  const broker = await createBroker();
  return listen(createServer(tlsOptions(tls), broker.handle));
}

/** Kicks the client whose id is the payload of whatever is published, which is all that a broker by itself can do. */
export async function startKickingBroker(tls: TlsFiles): Promise<number> {
  const broker = await Aedes.createBroker({
    authorizePublish(_, { payload }, done) {
      done(null);
      clients.get(payload.toString())?.close();
    },
  });
  const clients = new Map<string, Client>();
  broker.on('client', (client) => void clients.set(client.id, client));
  return listen(createServer(tlsOptions(tls), broker.handle));
}

/** The same behind a door like the gateway's without TLS. */
export async function startPlainBroker(): Promise<number> {
  const broker = await createBroker();
  const server = createPlainServer({ noDelay: true }, (socket) => {
    socket.on('error', () => socket.destroy());
    void readFingerprint(socket).then(() => broker.handle(socket));
  });
  return listen(server);
}

const createBroker = () =>
  Aedes.createBroker({
    authorizePublish(client, { topic }, done) {
      client?.publish({ cmd: 'publish', ...answerTo(topic), qos: 1, dup: false, retain: false }, () => {});
      done(null);
    },
  });

function answerTo(topic: string): { topic: string; payload: string } {
  if (topic.endsWith('/update')) {
    return { topic: `${topic}/accepted`, payload: JSON.stringify({ timestamp: Math.floor(Date.now() / 1_000) }) };
  }
  const payload = JSON.stringify({ executionId: topic.split('/')[5] });
  return { topic: topic.replace('/response/json', '/response/accepted/json'), payload };
}

/** Mutual TLS and nothing behind it: whatever comes first is answered with the same CONNACK. */
export async function startTlsServer(tls: TlsFiles): Promise<number> {
  const accepted = generate({ cmd: 'connack', reasonCode: 0, sessionPresent: false }, { protocolVersion: 5 });
  const server = createServer(tlsOptions(tls), (socket) => {
    socket.on('error', () => socket.destroy());
    socket.once('data', () => {
      socket.write(accepted);
      socket.resume();
    });
  });
  return listen(server);
}
