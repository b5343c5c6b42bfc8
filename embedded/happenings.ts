import { setTimeout as pause } from 'node:timers/promises';
import { z } from 'zod';
import { faint, say, warn } from './console.ts';
import { postgres } from '../db/postgres.ts';

type Happening = { id: string; kind: string; subject: string; data: Data };
/** The audit's and the events' own words: ids, names and numbers. */
type Data = Record<string, string | number | undefined>;

const changesSchema = z.record(z.string(), z.object({ is: z.string().nullable() }));

const pollMs = 250;
/** A transaction may commit after one whose ids are younger: that much is read again, and what was said is not repeated. */
const overlapMs = 5_000;

/**
 * Says one line per thing that happens from now on, as the audit and the events have it: so it tells of every device, not
 * only of the simulated ones. Until `signal`; a database that is away is asked again.
 */
export async function sayWhatHappens(url: string, signal: AbortSignal): Promise<void> {
  const sql = postgres(url, { max: 1, onnotice: () => {}, connection: { application_name: 'longhaul console' } });
  const startedAt = Date.now();
  let said = new Set<string>();
  while (!signal.aborted) {
    const happenings = await list(Math.max(startedAt, Date.now() - overlapMs)).catch(() => undefined);
    for (const happening of happenings ?? []) {
      if (!said.has(happening.id)) tell(happening);
    }
    if (happenings) said = new Set(happenings.map(({ id }) => id));
    await pause(pollMs, undefined, { signal }).catch(() => {});
  }
  await sql.end({ timeout: 1 });

  async function list(sinceMs: number): Promise<Happening[]> {
    const since = firstIdOf(sinceMs);
    return sql<Happening[]>`
      select id, action as kind, subject, data from audit where id >= ${since}
      union all
      select e.id, e.kind, coalesce('device/' || d.name, e.subject, ''), e.data
      from events e left join devices d on d.id = e.device_id where e.id >= ${since} and e.kind not like 'rollout.%'
      order by id`;
  }
}

/** The least UUIDv7 of a millisecond (RFC 9562 5.7). */
function firstIdOf(ms: number): string {
  const hex = ms.toString(16).padStart(12, '0');
  return `${hex.slice(0, 8)}-${hex.slice(8)}-7000-8000-000000000000`;
}

const short = (id: string | number | undefined): string => String(id).slice(-12);
const counted = (count: string | number | undefined, noun: string): string =>
  `${count} ${noun}${count === 1 ? '' : 's'}`;
const ended = (how: string) => (data: Data) => `${how} command ${short(data['commandId'])}`;

/** What is said of each kind: nothing, where another line says it. One that is not here is said as it is recorded. */
const sentences: Record<string, ((data: Data) => string | undefined) | undefined> = {
  'device.registered': ({ template }) => `enrolled${template === undefined ? '' : ` by template ${template}`}`,
  'device.blocked': () => 'is blocked',
  'device.unblocked': () => 'is no longer blocked',
  'certificate.issued': ({ kind }) => (kind === 'device' ? undefined : `issued for a ${kind}`),
  'certificate.activated': ({ device }) => `is active: ${device} has connected with it`,
  'rotation.begun': ({ reason }) => `is to replace its certificate (${reason})`,
  'rotation.finished': ({ outcome }) => `has ended the rotation of its certificate: ${outcome}`,
  'certificate.revoked': ({ reason }) => `revoked: ${reason}`,
  'claim.created': ({ template, usesMax }) => `permits ${usesMax} devices of template ${template}`,
  'command.created': ({ targets, timeoutSeconds }) =>
    `sent to ${counted(targets, 'device')}, to be answered in ${timeoutSeconds} s`,
  'command.in-progress': ended('received'),
  'command.succeeded': ended('carried out'),
  'command.failed': ended('failed in'),
  'command.rejected': ended('rejected'),
  'command.timed-out': ended('did not answer'),
  'command.canceled': ({ commandId, targets }) =>
    commandId === undefined ? `taken back from ${counted(targets, 'device')}` : `is spared command ${short(commandId)}`,
  'artifact.stored': ({ size }) => `stored, ${size} bytes`,
  'release-key.created': ({ name }) => `named ${name} may sign manifests`,
  'order-key.published': ({ state }) => (state === 'SIGNING' ? 'signs orders' : 'may sign orders later, or did'),
  'release.created': ({ product, version }) => `is ${product} ${version}`,
  'rollout.created': () => 'is created',
  'rollout.decided': ({ words }) => String(words),
  'execution.queued': () => undefined,
  'execution.in-progress': ({ jobId, phase }) => `works on job ${short(jobId)}${phase ? faint(`, ${phase}`) : ''}`,
  'execution.succeeded': ({ jobId }) => `has done job ${short(jobId)}`,
  'execution.failed': ({ jobId }) => `failed in job ${short(jobId)}`,
  'execution.rejected': ({ jobId }) => `rejected job ${short(jobId)}`,
  'execution.timed-out': ({ jobId }) => `has run out of time in job ${short(jobId)}`,
  'execution.canceled': ({ jobId }) => `is spared job ${short(jobId)}`,
  'device.software-changed': ({ changes }) =>
    Object.entries(changesSchema.parse(changes))
      .map(([product, { is }]) => (is === null ? `has ${product} no more` : `runs ${product} ${is}`))
      .join(', '),
  'device.connected': ({ address }) => `is connected${address === undefined ? '' : faint(` from ${address}`)}`,
  'device.disconnected': ({ reason }) => `is gone${reason === undefined ? '' : faint(` (${reason})`)}`,
};

/** A device speaks under its name; anything else under its noun and the end of its id. */
function tell({ kind, subject, data }: Happening): void {
  const [noun = '', name = ''] = subject.split('/');
  const known = sentences[kind];
  const sentence = known ? known(data) : `${kind} ${faint(JSON.stringify(data))}`;
  if (sentence === undefined) return;
  const tone = kind.endsWith('.refused') ? warn : say;
  if (noun === 'device') tone(name, sentence);
  else tone(noun, `${/^[0-9a-f-]{36,}$/.test(name) ? short(name) : name} ${sentence}`);
}
