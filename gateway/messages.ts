import type { Identity } from './identity.ts';

/** An MQTT session on its connection here: who, under which client id, and whose turn of it. */
export type Session = {
  identity: Identity;
  /** Identity key: see `identity.ts`. */
  key: string;
  clientId: string;
  epoch: number;
  protocol: 4 | 5;
  address: string;
  /** How long it outlives its connection; 0 for not at all. MQTT 5 may change it with the DISCONNECT. */
  expirySeconds: number;
};

export type Message = {
  topic: string;
  payload: Uint8Array;
  qos: 0 | 1;
  retain?: boolean;
  /** Of MQTT 5; not sent to a 3.1.1 client. `messageExpiryInterval` in seconds. */
  properties?: {
    messageExpiryInterval?: number;
    contentType?: string;
    responseTopic?: string;
    correlationData?: Uint8Array;
    userProperties?: Record<string, string | string[]>;
  };
};

/**
 * What became of a publish: recorded (it is acknowledged), refused (0x87, or the end of a 3.1.1 connection), or given up
 * (the connection ends with 0x88: the client resends after a reconnect).
 */
export type Published =
  | { outcome: 'committed' }
  | { outcome: 'refused'; detail: string }
  | { outcome: 'given-up'; detail: string };

/** Why a connection ended, in AWS's words. Only the client's own DISCONNECT suppresses its will. */
export type DisconnectReason =
  | 'AUTH_ERROR'
  | 'CLIENT_INITIATED_DISCONNECT'
  | 'CLIENT_ERROR'
  | 'CONNECTION_LOST'
  | 'DUPLICATE_CLIENTID'
  | 'FORBIDDEN_ACCESS'
  | 'MQTT_KEEP_ALIVE_TIMEOUT'
  | 'SERVER_ERROR'
  | 'SERVER_INITIATED_DISCONNECT'
  | 'API_INITIATED_DISCONNECT'
  | 'THROTTLED';

export type ConnectRequest = {
  /** Of this connection, unique. */
  connectionId: string;
  /** SHA-256 of the certificate that the handshake proved. */
  fingerprint: Uint8Array;
  clientId: string;
  protocol: 4 | 5;
  cleanStart: boolean;
  expirySeconds: number;
  address: string;
  /** The certificates that the handshake proved, in DER, the client's own first. */
  presented?: () => Uint8Array[];
};

export type ConnectRefused = { refused: 'not-authorized' | 'unavailable' | 'bad-client-id'; detail: string };

export type Connected = { session: Session; subscriptions: Record<string, 0 | 1> };

/** What the listener asks and tells. It knows MQTT and sockets; what they mean is behind these. */
export type Hooks = {
  /** Opens the session. Its row stands before this resolves. */
  connect(request: ConnectRequest): Promise<Connected | ConnectRefused>;
  /** The one decision over topics; also asked for a will, and before each delivery. */
  may(session: Session, action: 'publish' | 'subscribe' | 'receive', topic: string): boolean;
  /** Somebody was told no. */
  denied(session: Session, action: 'publish' | 'subscribe' | 'will', topic: string, detail: string): void;
  publish(session: Session, message: Message): Promise<Published>;
  /** Before the SUBACK; throws to close the connection. */
  subscribing(session: Session, filters: Record<string, 0 | 1>): Promise<void>;
  /** After the SUBACK, and after the CONNACK of a resumed session. */
  subscribed(session: Session, filters: string[]): void;
  /** Before the UNSUBACK; throws to close the connection. */
  unsubscribing(session: Session, filters: string[]): Promise<void>;
  closed(session: Session, reason: DisconnectReason): void;
};
