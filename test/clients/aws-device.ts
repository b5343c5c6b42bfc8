import { once } from 'node:events';
import { iot, iotidentity, iotjobs, iotshadow, mqtt, mqtt5 } from 'aws-iot-device-sdk-v2';
import type { System } from '../support/system.ts';

export type Credentials = { certificate: string; privateKey: string };

export type Heard = {
  topic: string;
  text: string;
  expirySeconds?: number | undefined;
  contentType?: string | undefined;
};

/** What the plain MQTT clients of the SDK do alike, whichever version they speak. */
export type AwsClient = AsyncDisposable & {
  /** Every message that came to this connection, subscribed or not, in order. */
  heard: Heard[];
  /** Whether the server still had the session. */
  sessionPresent: boolean;
  /** Resolves when the subscription was granted. */
  subscribe(filter: string): Promise<void>;
  /** Resolves with the acknowledgement. */
  publish(topic: string, body: unknown): Promise<void>;
  identityV1(): iotidentity.IotIdentityClient;
  identityV2(): iotidentity.IotIdentityClientv2;
  jobsV1(): iotjobs.IotJobsClient;
  jobsV2(): iotjobs.IotJobsClientv2;
  shadowV1(): iotshadow.IotShadowClient;
  shadowV2(): iotshadow.IotShadowClientv2;
};

export type Dial = Credentials & { clientId: string; cleanSession?: boolean };
export type Dialler = (mqtt: System['mqtt'], options: Dial) => Promise<AwsClient>;

const requestOptions = {
  maxRequestResponseSubscriptions: 5,
  maxStreamingSubscriptions: 2,
  operationTimeoutInSeconds: 15,
};
const encode = (body: unknown) => (typeof body === 'string' ? body : JSON.stringify(body));
const decode = (payload: unknown) => Buffer.from(payload as ArrayBuffer).toString();

/** The SDK's MQTT 3.1.1 client, made as its samples make it. */
export const dial311: Dialler = async (server, { certificate, privateKey, clientId, cleanSession = false }) => {
  const config = iot.AwsIotMqttConnectionConfigBuilder.new_mtls_builder(certificate, privateKey)
    .with_certificate_authority(server.ca)
    .with_endpoint(server.serverName)
    .with_port(server.port)
    .with_client_id(clientId)
    .with_clean_session(cleanSession)
    .with_keep_alive_seconds(1_200)
    .build();
  const connection = new mqtt.MqttClient().new_connection(config);
  const heard: Heard[] = [];
  connection.on('message', (topic, payload) => void heard.push({ topic, text: decode(payload) }));
  connection.on('error', () => {}); // the promise of the operation tells it too
  const closing = new AsyncDisposableStack();
  closing.defer(() => connection.disconnect());
  return {
    heard,
    sessionPresent: await connection.connect(),
    async subscribe(filter) {
      const { error_code, qos } = await connection.subscribe(filter, mqtt.QoS.AtLeastOnce);
      if (error_code || qos !== mqtt.QoS.AtLeastOnce)
        throw new Error(`${filter} was not granted: ${error_code} ${qos}`);
    },
    publish: async (topic, body) => void (await connection.publish(topic, encode(body), mqtt.QoS.AtLeastOnce)),
    identityV1: () => new iotidentity.IotIdentityClient(connection),
    identityV2() {
      const client = iotidentity.IotIdentityClientv2.newFromMqtt311(connection, requestOptions);
      closing.defer(() => client.close());
      return client;
    },
    shadowV1: () => new iotshadow.IotShadowClient(connection),
    shadowV2() {
      const client = iotshadow.IotShadowClientv2.newFromMqtt311(connection, requestOptions);
      closing.defer(() => client.close());
      return client;
    },
    jobsV1: () => new iotjobs.IotJobsClient(connection),
    jobsV2() {
      const client = iotjobs.IotJobsClientv2.newFromMqtt311(connection, requestOptions);
      closing.defer(() => client.close());
      return client;
    },
    [Symbol.asyncDispose]: () => closing.disposeAsync(),
  };
};

/** The SDK's MQTT 5 client, made as its samples make it. */
export const dial5: Dialler = async (server, { certificate, privateKey, clientId, cleanSession = false }) => {
  const config = iot.AwsIotMqtt5ClientConfigBuilder.newDirectMqttBuilderWithMtlsFromMemory(
    server.serverName,
    certificate,
    privateKey,
  )
    .withCertificateAuthority(server.ca)
    .withPort(server.port)
    .withSessionBehavior(cleanSession ? mqtt5.ClientSessionBehavior.Clean : mqtt5.ClientSessionBehavior.RejoinAlways)
    .withConnectProperties({
      clientId,
      keepAliveIntervalSeconds: 1_200,
      ...(!cleanSession && { sessionExpiryIntervalSeconds: 3_600 }),
    })
    .build();
  const client = new mqtt5.Mqtt5Client(config);
  const heard: Heard[] = [];
  client.on('messageReceived', ({ message }) => {
    const { topicName: topic, payload, messageExpiryIntervalSeconds: expirySeconds, contentType } = message;
    heard.push({ topic, text: decode(payload), expirySeconds, contentType: contentType?.toString() });
  });
  client.on('error', () => {});
  const closing = new AsyncDisposableStack();
  closing.defer(async () => {
    const stopped = once(client, 'stopped');
    client.stop();
    await stopped;
    client.close();
  });
  const connected = Promise.race([once(client, 'connectionSuccess'), once(client, 'connectionFailure')]);
  client.start();
  const [event] = (await connected) as [{ connack?: mqtt5.ConnackPacket; error?: unknown }];
  if (event.error) {
    await closing.disposeAsync();
    throw event.error;
  }
  return {
    heard,
    sessionPresent: event.connack?.sessionPresent ?? false,
    async subscribe(filter) {
      const { reasonCodes } = await client.subscribe({
        subscriptions: [{ topicFilter: filter, qos: mqtt5.QoS.AtLeastOnce }],
      });
      if (reasonCodes[0] !== mqtt5.SubackReasonCode.GrantedQoS1)
        throw new Error(`${filter} was not granted: ${reasonCodes[0]}`);
    },
    async publish(topicName, body) {
      const acknowledged = await client.publish({ topicName, payload: encode(body), qos: mqtt5.QoS.AtLeastOnce });
      const { reasonCode } = acknowledged as mqtt5.PubackPacket;
      if (reasonCode !== mqtt5.PubackReasonCode.Success)
        throw new Error(`the publish to ${topicName} was refused: ${reasonCode}`);
    },
    identityV1: () => iotidentity.IotIdentityClient.newFromMqtt5Client(client),
    identityV2() {
      const identity = iotidentity.IotIdentityClientv2.newFromMqtt5(client, requestOptions);
      closing.defer(() => identity.close());
      return identity;
    },
    jobsV1: () => iotjobs.IotJobsClient.newFromMqtt5Client(client),
    jobsV2() {
      const jobs = iotjobs.IotJobsClientv2.newFromMqtt5(client, requestOptions);
      closing.defer(() => jobs.close());
      return jobs;
    },
    shadowV1: () => iotshadow.IotShadowClient.newFromMqtt5Client(client),
    shadowV2() {
      const shadow = iotshadow.IotShadowClientv2.newFromMqtt5(client, requestOptions);
      closing.defer(() => shadow.close());
      return shadow;
    },
    [Symbol.asyncDispose]: () => closing.disposeAsync(),
  };
};
