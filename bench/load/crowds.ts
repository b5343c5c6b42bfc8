import { notifyNextTopic, updateTopic } from '../../embedded/device-topics.ts';
import { each, openClient, type Client, type Credentials, type Server } from './mqtt.ts';

/** A device with credentials comes with TLS; one without says its name at a door that has none. */
export type Member = { name: string; credentials?: Credentials };

/** What the devices of a crowd do with a job. */
export type Behaviour = {
  /** Of each device; the last one ends its execution. */
  reports: number;
  /** Before its last report it waits for a random time up to this. */
  spreadMs?: number;
  /** So many of those told first begin, and end when they are asked to. */
  held?: number;
  /** Share of those that fail. */
  failing?: number;
};

/** When it happened, in milliseconds since 1970 with their fractions. */
export type Observed = { told: number[]; ending: number[]; ended: number[]; refused: number };

type Standing = Member & { client: Client; job: string; topic: string; sent: number; isHeld: boolean };
type Crowd = { members: Standing[]; held: Standing[]; behaviour: Behaviour; observed: Observed };

const crowds = new Map<string, Crowd>();
const phases = ['DOWNLOADING', 'INSTALLING', 'REBOOTING', 'VERIFYING'];
const nowMs = () => performance.timeOrigin + performance.now();
const nothingYet = (): Observed => ({ told: [], ending: [], ended: [], refused: 0 });

/** Devices that stay connected and execute jobs: they subscribe to the next one, and are answered unasked. */
export const crowdJobs = {
  async gather({ crowd: name, server, members }: { crowd: string; server: Server; members: Member[] }) {
    const crowd = crowds.get(name) ?? { members: [], held: [], behaviour: { reports: 1 }, observed: nothingYet() };
    crowds.set(name, crowd);
    await each(members, 64, async (member) => {
      const client = await openClient(server, { credentials: member.credentials, clientId: member.name });
      const standing = { ...member, client, job: '', topic: '', sent: 0, isHeld: false };
      const subscribed = Promise.withResolvers<void>();
      client.receive = (packet) => {
        if (packet.cmd === 'suback') subscribed.resolve();
        else if (packet.cmd === 'publish') hear(crowd, standing, packet.topic, packet.payload);
      };
      client.subscribe([notifyNextTopic(member.name)]);
      await subscribed.promise;
      crowd.members.push(standing);
    });
    return crowd.members.length;
  },

  async disperse({ crowd }: { crowd: string }) {
    for (const { client } of crowds.get(crowd)?.members ?? []) client.end();
    crowds.delete(crowd);
  },

  /** From now on, for whoever is told from now on. */
  async behave({ crowd: name, behaviour }: { crowd: string; behaviour: Behaviour }) {
    const crowd = find(name);
    Object.assign(crowd, { behaviour, held: [], observed: nothingYet() });
  },

  observe: async ({ crowd }: { crowd: string }): Promise<Observed> => find(crowd).observed,

  /** One of those held ends so. When it said so, or undefined when nobody is held any more. */
  async endOne({ crowd: name, status }: { crowd: string; status: string }) {
    const standing = find(name).held.shift();
    if (!standing) return undefined;
    const at = nowMs();
    Object.assign(standing, { isHeld: false, sent: Infinity });
    standing.client.publish(standing.topic, { status });
    return at;
  },

  /** So many of those held say how far they are. */
  async mention({ crowd: name, count }: { crowd: string; count: number }) {
    const { held } = find(name);
    for (let n = 0; n < Math.min(count, held.length); n++) {
      const standing = held[Math.floor(Math.random() * held.length)];
      standing?.client.publish(standing.topic, { status: 'IN_PROGRESS', statusDetails: { progress: String(n) } });
    }
  },

  /** Requests and answers, one device after the other, so many under way at a time. Returns answers per second. */
  async ask({ crowd: name, inFlight, ms }: { crowd: string; inFlight: number; ms: number }) {
    const { members } = find(name);
    const startedAt = performance.now();
    let answered = 0;
    // Nobody has two requests under way.
    const groups = Map.groupBy(members, (_, index) => index % inFlight);
    const askInTurn = async (group: Standing[]) => {
      for (let turn = 0; performance.now() < startedAt + ms; turn++) {
        await askOne(group[turn % group.length]);
        answered += 1;
      }
    };
    await Promise.all([...groups.values()].map(askInTurn));
    return (answered / (performance.now() - startedAt)) * 1_000;
  },
};

async function askOne(standing: Standing | undefined): Promise<void> {
  if (!standing) return;
  const { name, client } = standing;
  const answer = Promise.withResolvers<void>();
  client.receive = ({ cmd }) => void (cmd === 'publish' && answer.resolve());
  client.publish(updateTopic(name, 'job'), { status: 'IN_PROGRESS', statusDetails: { phase: phases[0] } });
  await answer.promise;
}

function find(name: string): Crowd {
  const crowd = crowds.get(name);
  if (!crowd) throw new Error(`there is no crowd ${name}`);
  return crowd;
}

function hear(crowd: Crowd, standing: Standing, topic: string, payload: string | Buffer): void {
  if (topic.endsWith('/accepted')) return go(crowd, standing);
  if (topic.endsWith('/rejected')) {
    crowd.observed.refused += 1;
    return undefined;
  }
  // What the contract sends there.
  const { execution } = JSON.parse(payload.toString()) as { execution?: { jobId: string } };
  if (!execution || execution.jobId === standing.job) return undefined;
  crowd.observed.told.push(nowMs());
  const topicOfJob = updateTopic(standing.name, execution.jobId);
  const isHeld = crowd.observed.told.length <= (crowd.behaviour.held ?? 0);
  Object.assign(standing, { job: execution.jobId, topic: topicOfJob, sent: 0, isHeld });
  if (isHeld) crowd.held.push(standing);
  return go(crowd, standing);
}

/** The next report, after the answer to the one before. */
function go(crowd: Crowd, standing: Standing): void {
  const { reports, spreadMs = 0, failing = 0 } = crowd.behaviour;
  const { client, topic } = standing;
  if (standing.isHeld) {
    if (standing.sent === 0) client.publish(topic, { status: 'IN_PROGRESS' });
    standing.sent = 1;
    return;
  }
  standing.sent += 1;
  if (standing.sent < reports) {
    client.publish(topic, { status: 'IN_PROGRESS', statusDetails: { phase: phases[standing.sent - 1] } });
  } else if (standing.sent === reports) {
    const end = () => {
      crowd.observed.ending.push(nowMs());
      client.publish(topic, { status: Math.random() < failing ? 'FAILED' : 'SUCCEEDED' });
    };
    if (spreadMs > 0) setTimeout(end, Math.random() * spreadMs);
    else end();
  } else {
    crowd.observed.ended.push(nowMs());
  }
}
