import { createServer } from 'node:tls';
import { Aedes } from 'aedes';
import { generate } from 'mqtt-packet';
import { listen, tlsOptions, type TlsFiles } from './tls.ts';

/** Answers each report from memory, to the device that sent it, as the gateway does once it has committed. */
export async function startBroker(tls: TlsFiles): Promise<number> {
  const broker = await Aedes.createBroker({
    authorizePublish(client, packet, done) {
      const topic = packet.topic.replace('/response/json', '/response/accepted/json');
      const executionId = packet.topic.split('/')[5];
      const payload = JSON.stringify({ executionId });
      client?.publish({ cmd: 'publish', topic, payload, qos: 1, dup: false, retain: false }, () => {});
      done(null);
    },
  });
  return listen(createServer(tlsOptions(tls), broker.handle));
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
