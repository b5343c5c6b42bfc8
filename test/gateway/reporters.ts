import { eq } from 'drizzle-orm';
import { Counter, Registry } from 'prom-client';
import type { Database } from '../../db/client.ts';
import { deviceSoftware } from '../../db/rollout-schema.ts';
import { audit, events } from '../../db/schema.ts';
import type { Session } from '../../gateway/messages.ts';
import { createRefusalLog } from '../../gateway/refusals.ts';
import { createRequests } from '../../gateway/requests.ts';
import { createSoftware } from '../../gateway/software.ts';
import { availabilityOf, createEar, noEffects, quiet, sessionOf } from './ear.ts';
import { makeDevice } from './rows.ts';

/** Devices that say what they run, as if each had a connection. */
export function createReporters(db: Database) {
  const ear = createEar();
  const quarantined = new Counter({ name: 'q', help: 'q', registers: [new Registry()] });
  const relay = { wake() {} };
  const software = createSoftware({ db, availability: availabilityOf(db), relay, log: quiet, quarantined });
  const refusals = createRefusalLog({ db, log: quiet, suppressed: () => {} });
  const { dispatch } = createRequests({ ...noEffects, software, listener: ear, refusals });
  const ask = async (session: Session, operation: 'get' | 'update', body: unknown, thing = nameOf(session)) => {
    const payload = Buffer.from(typeof body === 'string' ? body : JSON.stringify(body));
    const before = ear.answers.length;
    const topic = `$aws/things/${thing}/shadow/name/$package/${operation}`;
    const published = await dispatch(session, { topic, payload, qos: 1 });
    const answer = ear.answers.slice(before).find((candidate) => candidate.session === session);
    return { published, outcome: answer?.topic.replace(`${topic}/`, ''), body: answer?.body };
  };
  return {
    ask,
    report: (session: Session, reported: unknown, rest: object = {}) =>
      ask(session, 'update', { state: { reported }, ...rest }),
    newSession: async () => sessionOf(await makeDevice(db)),
    softwareOf: async (session: Session) => {
      const rows = await db
        .select()
        .from(deviceSoftware)
        .where(eq(deviceSoftware.deviceId, idOf(session)));
      return Object.fromEntries(rows.map(({ product, version }) => [product, version]));
    },
    eventsOf: async (session: Session) => {
      const rows = await db
        .select()
        .from(events)
        .where(eq(events.deviceId, idOf(session)))
        .orderBy(events.id);
      return rows.map(({ kind, data }) => [kind, data]);
    },
    refusalsOf: async (session: Session) => {
      const rows = await db
        .select()
        .from(audit)
        .where(eq(audit.subject, `device/${nameOf(session)}`));
      return rows.map(({ action }) => action);
    },
  };
}

export const nameOf = ({ identity }: Session) => (identity.kind === 'device' ? identity.name : '');
export const idOf = ({ identity }: Session) => (identity.kind === 'device' ? identity.deviceId : '');
