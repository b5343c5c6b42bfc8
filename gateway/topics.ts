import type { Identity } from './identity.ts';

/** The reserved prefix of the contract that AWS IoT device SDKs speak. Nothing else in the product writes it. */
const reserved = '$aws';

type Kind = Identity['kind'];

/** A topic that the gateway knows: `{name}` stands for one level. */
export type Topic = {
  pattern: string;
  /** Whether the device says it to us or hears it from us. */
  direction: 'in' | 'out';
  /** The kinds of identity that may. */
  who: Kind[];
};

const heard = (who: Kind[], path: string): Topic => ({ pattern: `${reserved}/${path}`, direction: 'in', who });
const told = (who: Kind[], path: string): Topic => ({ pattern: `${reserved}/${path}`, direction: 'out', who });
/** `{target}` is the device's own name under `things` and the connection's own client id under `clients`. */
const execution = 'commands/{targets}/{target}/executions/{execution}';

/** Every topic there is. What is not here is refused, whoever asks. */
export const topics = {
  createKeys: heard(['claim'], 'certificates/create/json'),
  createKeysAccepted: told(['claim'], 'certificates/create/json/accepted'),
  createKeysRejected: told(['claim'], 'certificates/create/json/rejected'),
  createFromCsr: heard(['claim'], 'certificates/create-from-csr/json'),
  createFromCsrAccepted: told(['claim'], 'certificates/create-from-csr/json/accepted'),
  createFromCsrRejected: told(['claim'], 'certificates/create-from-csr/json/rejected'),
  provision: heard(['claim'], 'provisioning-templates/{template}/provision/json'),
  provisionAccepted: told(['claim'], 'provisioning-templates/{template}/provision/json/accepted'),
  provisionRejected: told(['claim'], 'provisioning-templates/{template}/provision/json/rejected'),
  commandRequestJson: told(['device'], `${execution}/request/json`),
  commandRequestCbor: told(['device'], `${execution}/request/cbor`),
  commandRequest: told(['device'], `${execution}/request`),
  commandResponse: heard(['device'], `${execution}/response/json`),
  commandAccepted: told(['device'], `${execution}/response/accepted/json`),
  commandRejected: told(['device'], `${execution}/response/rejected/json`),
  presenceConnected: told(['service'], 'events/presence/connected/{client}'),
  presenceDisconnected: told(['service'], 'events/presence/disconnected/{client}'),
} satisfies Record<string, Topic>;

/** The levels that stand for `{name}` in the pattern; undefined when the topic is another one. */
export function match(pattern: string, topic: string): Record<string, string> | undefined {
  const levels = pattern.split('/');
  const given = topic.split('/');
  if (levels.length !== given.length) return undefined;
  const params: [string, string][] = [];
  for (const [index, level] of levels.entries()) {
    const value = given[index] ?? '';
    if (level.startsWith('{')) params.push([level.slice(1, -1), value]);
    else if (level !== value) return undefined;
  }
  return Object.fromEntries(params);
}

/** The topic that the pattern becomes with these levels. */
export function fill(pattern: string, params: Record<string, string>): string {
  return pattern.replaceAll(/\{(\w+)\}/g, (_, name: string) => params[name] ?? '');
}

/**
 * Whether the levels name what belongs to this connection: a device speaks of itself alone, by its name or by the
 * client id of the connection. Levels that name nothing owned are anybody's.
 */
export function owns(
  session: { identity: Identity; clientId: string },
  params: { targets?: string; target?: string },
): boolean {
  if (params.target === undefined) return true;
  if (params.targets === 'things') return session.identity.kind === 'device' && params.target === session.identity.name;
  return params.targets === 'clients' && params.target === session.clientId;
}
