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
const shadow = 'things/{target}/shadow/name/$package';
const execution = 'commands/{targets}/{target}/executions/{execution}';
/** `{job}` is a job's id, or `$next`. */
const jobs = 'things/{target}/jobs';

/** Every topic there is. What is not here is refused, whoever asks. */
export const topics = {
  createKeys: heard(['claim'], 'certificates/create/json'),
  createKeysAccepted: told(['claim'], 'certificates/create/json/accepted'),
  createKeysRejected: told(['claim'], 'certificates/create/json/rejected'),
  createFromCsr: heard(['claim', 'device'], 'certificates/create-from-csr/json'),
  createFromCsrAccepted: told(['claim', 'device'], 'certificates/create-from-csr/json/accepted'),
  createFromCsrRejected: told(['claim', 'device'], 'certificates/create-from-csr/json/rejected'),
  provision: heard(['claim'], 'provisioning-templates/{template}/provision/json'),
  provisionAccepted: told(['claim'], 'provisioning-templates/{template}/provision/json/accepted'),
  provisionRejected: told(['claim'], 'provisioning-templates/{template}/provision/json/rejected'),
  createKeysInCbor: heard(['claim'], 'certificates/create/cbor'),
  createKeysInCborAccepted: told(['claim'], 'certificates/create/cbor/accepted'),
  createKeysInCborRejected: told(['claim'], 'certificates/create/cbor/rejected'),
  createFromCsrInCbor: heard(['claim', 'device'], 'certificates/create-from-csr/cbor'),
  createFromCsrInCborAccepted: told(['claim', 'device'], 'certificates/create-from-csr/cbor/accepted'),
  createFromCsrInCborRejected: told(['claim', 'device'], 'certificates/create-from-csr/cbor/rejected'),
  provisionInCbor: heard(['claim'], 'provisioning-templates/{template}/provision/cbor'),
  provisionInCborAccepted: told(['claim'], 'provisioning-templates/{template}/provision/cbor/accepted'),
  provisionInCborRejected: told(['claim'], 'provisioning-templates/{template}/provision/cbor/rejected'),
  commandRequestJson: told(['device'], `${execution}/request/json`),
  commandRequestCbor: told(['device'], `${execution}/request/cbor`),
  commandRequest: told(['device'], `${execution}/request`),
  commandResponse: heard(['device'], `${execution}/response/json`),
  commandAccepted: told(['device'], `${execution}/response/accepted/json`),
  commandRejected: told(['device'], `${execution}/response/rejected/json`),
  pendingJobs: heard(['device'], `${jobs}/get`),
  pendingJobsAccepted: told(['device'], `${jobs}/get/accepted`),
  pendingJobsRejected: told(['device'], `${jobs}/get/rejected`),
  startNextJob: heard(['device'], `${jobs}/start-next`),
  startNextJobAccepted: told(['device'], `${jobs}/start-next/accepted`),
  startNextJobRejected: told(['device'], `${jobs}/start-next/rejected`),
  describeJob: heard(['device'], `${jobs}/{job}/get`),
  describeJobAccepted: told(['device'], `${jobs}/{job}/get/accepted`),
  describeJobRejected: told(['device'], `${jobs}/{job}/get/rejected`),
  updateJob: heard(['device'], `${jobs}/{job}/update`),
  updateJobAccepted: told(['device'], `${jobs}/{job}/update/accepted`),
  updateJobRejected: told(['device'], `${jobs}/{job}/update/rejected`),
  unknownOfJobs: heard(['device'], `${jobs}/{operation}`),
  unknownOfJobsRejected: told(['device'], `${jobs}/{operation}/rejected`),
  unknownOfJob: heard(['device'], `${jobs}/{job}/{operation}`),
  unknownOfJobRejected: told(['device'], `${jobs}/{job}/{operation}/rejected`),
  jobsChanged: told(['device'], `${jobs}/notify`),
  nextJobChanged: told(['device'], `${jobs}/notify-next`),
  softwareUpdate: heard(['device'], `${shadow}/update`),
  softwareUpdateAccepted: told(['device'], `${shadow}/update/accepted`),
  softwareUpdateRejected: told(['device'], `${shadow}/update/rejected`),
  softwareGet: heard(['device'], `${shadow}/get`),
  softwareGetAccepted: told(['device'], `${shadow}/get/accepted`),
  softwareGetRejected: told(['device'], `${shadow}/get/rejected`),
  presenceConnected: told(['service'], 'events/presence/connected/{client}'),
  presenceDisconnected: told(['service'], 'events/presence/disconnected/{client}'),
} satisfies Record<string, Topic>;

const levelsOf = (text: string): number => text.split('/').length;
const byShape = Map.groupBy(Object.values<Topic>(topics), ({ direction, pattern }) => direction + levelsOf(pattern));

/** The topics of the table that this one may be, by its number of levels. */
export const candidates = (direction: Topic['direction'], topic: string): Topic[] =>
  byShape.get(direction + levelsOf(topic)) ?? [];

/** The levels that stand for `{name}` in the pattern; undefined when the topic is another one. */
export function match(pattern: string, topic: string): Record<string, string> | undefined {
  const params: Record<string, string> = {};
  for (let [from, start] = [0, 0]; ;) {
    const [to, end] = [levelEnd(pattern, from), levelEnd(topic, start)];
    if (pattern[from] === '{') params[pattern.slice(from + 1, to - 1)] = topic.slice(start, end);
    else if (to - from !== end - start || !topic.startsWith(pattern.slice(from, to), start)) return undefined;
    if (to === pattern.length || end === topic.length) {
      return to === pattern.length && end === topic.length ? params : undefined;
    }
    [from, start] = [to + 1, end + 1];
  }
}

function levelEnd(text: string, from: number): number {
  const end = text.indexOf('/', from);
  return end < 0 ? text.length : end;
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
  if (params.targets === 'clients') return params.target === session.clientId;
  if (params.targets !== undefined && params.targets !== 'things') return false;
  return session.identity.kind === 'device' && params.target === session.identity.name;
}
