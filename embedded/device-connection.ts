import { connect, ErrorWithReasonCode, type IClientOptions, type MqttClient } from 'mqtt';

/** Where the fleet's gateway listens, and the certificates by which it is recognised. */
export type Broker = { host: string; port: number; serverName: string; ca: string };

export type Credentials = { certificate: string; privateKey: string };

/** Once it has ended it stays ended. */
export type Connection = MqttClient;

export type ProtocolVersion = 4 | 5;

export type Dial = Credentials & {
  clientId: string;
  protocolVersion: ProtocolVersion;
  /** Seconds that the server keeps the session after a disconnect; 0 for none. */
  sessionSeconds: number;
  receive?: (topic: string, payload: Buffer) => void;
  /** Asked after each QoS 1 message was received; false breaks the connection in place of its acknowledgement. */
  acknowledges?: () => boolean;
};

/** The CONNACK said no. `notAuthorized` is the one no that trying again does not change. */
export class ConnectionRefused extends Error {
  override name = 'ConnectionRefused';
  readonly notAuthorized: boolean;

  constructor(message: string, code: number) {
    super(message);
    this.notAuthorized = notAuthorizedCodes.has(code);
  }
}

/** MQTT 3.1.1 table 3.1, MQTT 5 table 3-1. */
const notAuthorizedCodes = new Set([5, 0x87]);

/**
 * One connection with mutual TLS, until it ends. It never reconnects by itself and forgets what was in flight: what a
 * device has still to say stands in its journal. `signal` cuts it without a goodbye.
 */
export async function dial(broker: Broker, options: Dial, signal: AbortSignal): Promise<Connection> {
  signal.throwIfAborted();
  const { acknowledges = () => true, receive } = options;
  const client = connect(clientOptions(broker, options));
  client.handleMessage = (packet, acknowledge) => {
    if (packet.cmd === 'publish' && packet.qos > 0 && !acknowledges()) client.stream.destroy();
    else acknowledge();
  };
  if (receive) client.on('message', receive);
  const { promise, resolve, reject } = Promise.withResolvers<Connection>();
  client.on('error', (error) => reject(isRefusal(error) ? new ConnectionRefused(error.message, error.code) : error));
  client.once('connect', () => resolve(client));
  const cut = () => client.end(true);
  signal.addEventListener('abort', cut);
  client.once('close', () => {
    signal.removeEventListener('abort', cut);
    reject(new Error('the connection ended before it was accepted'));
    client.end(true);
  });
  return promise;
}

/** The server said no, by a reason code, to a CONNECT or to a publish; other errors are the network's. */
export const isRefusal = (error: unknown): error is ErrorWithReasonCode => error instanceof ErrorWithReasonCode;

function clientOptions(broker: Broker, options: Dial): IClientOptions {
  const { sessionSeconds, protocolVersion } = options;
  return {
    protocol: 'mqtts',
    host: broker.host,
    port: broker.port,
    servername: broker.serverName,
    ca: broker.ca,
    cert: options.certificate,
    key: options.privateKey,
    ALPNProtocols: ['mqtt'],
    clientId: options.clientId,
    protocolVersion,
    clean: sessionSeconds === 0,
    ...(protocolVersion === 5 && { properties: { sessionExpiryInterval: sessionSeconds } }),
    reconnectPeriod: 0,
    connectTimeout: 10_000,
    keepalive: 60,
  };
}
