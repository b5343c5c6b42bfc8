/** What one connection, one address or everybody together may ask of the gateway. */
export type Limits = {
  /** Bytes of one message's payload. */
  messageBytesMax: number;
  /** Filters of one SUBSCRIBE; more close the connection. */
  filtersPerSubscribeMax: number;
  /** Subscriptions of one connection; more are denied one by one. */
  subscriptionsMax: number;
  /** Levels of a topic or a filter; more close the connection. */
  topicLevelsMax: number;
  /** Publishes of one connection that are worked on at once; its socket is not read while more wait. */
  inFlightMax: number;
  /** Publishes per second of one connection; the socket of one that exceeds it is read more slowly. */
  publishesPerSecond: number;
  /** Executions of jobs that a device may have in progress at a time. */
  executionsInProgressMax: number;
  /** Requests about jobs of one device that are worked on at a time; more are told to come later. */
  jobRequestsInFlightMax: number;
  /** Messages that wait for a connection to acknowledge earlier ones. */
  outgoingMax: number;
  /** Bytes that a connection may leave unread before it is closed. */
  unreadBytesMax: number;
  /** TLS handshakes per second, by everybody together and from one address; more are cut off before they begin. */
  handshakesPerSecond: number;
  handshakesPerSecondPerAddress: number;
  /** From the first byte to the end of the TLS handshake, and from there to the CONNECT. */
  handshakeWithinMs: number;
  connectWithinMs: number;
  /** How long a QoS 1 message waits for its acknowledgement before it counts as not delivered. */
  acknowledgeWithinMs: number;
  /** How long a publish is held while the gateway is paused, before it is given up. */
  holdMaxMs: number;
  /** The longest that a session outlives its connection. */
  sessionExpirySecondsMax: number;
};

export const defaultLimits: Limits = {
  messageBytesMax: 128 * 1024,
  filtersPerSubscribeMax: 8,
  subscriptionsMax: 50,
  topicLevelsMax: 16,
  inFlightMax: 100,
  publishesPerSecond: 100,
  executionsInProgressMax: 1,
  jobRequestsInFlightMax: 32,
  outgoingMax: 200,
  unreadBytesMax: 1024 * 1024,
  handshakesPerSecond: 1_000,
  handshakesPerSecondPerAddress: 500,
  handshakeWithinMs: 15_000,
  connectWithinMs: 10_000,
  acknowledgeWithinMs: 20_000,
  holdMaxMs: 180_000,
  sessionExpirySecondsMax: 7 * 24 * 3600,
};
