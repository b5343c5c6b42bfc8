/**
 * Whom a connection speaks for. It comes from the row of the certificate that the TLS handshake proved, and from nowhere
 * else: not from the client id, the user name, a topic or a body.
 */
export type Identity =
  | { kind: 'device'; deviceId: string; name: string; certificateId: string; notAfter: Date }
  | { kind: 'claim'; claimId: string; template: string; certificateId: string; notAfter: Date }
  | { kind: 'service'; name: string; certificateId: string; notAfter: Date };

/**
 * The first half of a session's key: client ids are scoped to it, so that nobody displaces another's session. It is
 * `device/<id>`, `service/<certificate id>`, or `claim/<certificate id>/<connection>`: the devices of one line share
 * their claim certificate, and never a session.
 */
export const deviceKey = (deviceId: string): string => `device/${deviceId}`;

/** Who it is, in the audit's words. */
export function describeIdentity(identity: Identity): string {
  if (identity.kind === 'claim') return `claim/${identity.claimId}`;
  return `${identity.kind}/${identity.name}`;
}
