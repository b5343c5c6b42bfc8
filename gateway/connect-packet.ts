import type { IConnectPacket } from 'mqtt-packet';
import type { Asked } from './connections.ts';
import { toMessage } from './publishing.ts';

/**
 * What the CONNECT asks for, taken out of it. The library is left with an id of this connection alone, because rows
 * decide who displaces whom; an empty one stays, since what that means depends on the version. Will and keep-alive are
 * ours: the library would deliver the one, and count the other while a socket is not read.
 */
export function takeConnect(packet: IConnectPacket, connectionId: string): Asked {
  const { clientId, will, properties, clean = true, keepalive = 0 } = packet;
  const asked = {
    clientId,
    protocol: packet.protocolVersion === 5 ? 5 : 4,
    cleanStart: clean,
    keepAliveMs: keepalive * 1_000,
    receiveMax: properties?.receiveMaximum ?? 65_535,
    packetBytesMax: properties?.maximumPacketSize ?? Infinity,
    will: will && toMessage(will),
  } satisfies Asked;
  // MQTT 3.1 is answered with "unacceptable protocol version", as any number the library does not know.
  if (packet.protocolVersion === 3) Object.assign(packet, { protocolVersion: 2 });
  if (clientId !== '') packet.clientId = connectionId;
  delete packet.will;
  packet.keepalive = 0;
  return asked;
}
