import { and, eq, sql } from 'drizzle-orm';
import { insertAudit, type Actor } from './audit.ts';
import { revokeCertificate } from './certificates.ts';
import type { Db } from './client.ts';
import { enrolments, hookAnswers, ownershipTokens, templateHooks, type Registration } from './enrolment-schema.ts';
import { lockEnrolment, releaseClaimSlot, type EnrolmentRow } from './enrolments.ts';
import { createIds } from './ids.ts';
import { appendToOutbox } from './outbox.ts';
import { events } from './schema.ts';

type Happened = 'enrolment.waiting' | 'enrolment.approved' | 'enrolment.denied' | 'device.clone-suspected';

/** For whoever watches, in this order: subject is the enrolment. */
async function tell(db: Db, kinds: Happened[], enrolment: EnrolmentRow, data: Record<string, unknown>): Promise<void> {
  const { id, template, claimId } = enrolment;
  const about = { enrolmentId: id, template, claimId };
  const nextId = createIds();
  const told = { subject: `enrolment/${id}`, data: { ...about, ...data }, xid: sql`pg_current_xact_id()` };
  await db.insert(events).values(kinds.map((kind) => ({ id: nextId(), kind, ...told })));
}

export type Wait = {
  waitsFor: 'approval' | 'device-exists';
  registration: Registration;
  registrationHash: Uint8Array;
  closesAt: Date;
};

/** Lets the enrolment, which is locked, wait for an operator, and says so; its tokens are good for as long. */
export async function waitForApproval(db: Db, enrolment: EnrolmentRow, wait: Wait): Promise<void> {
  const { waitsFor, registration, closesAt } = wait;
  const unapproved = { approvedBy: null, approvedAt: null };
  await db
    .update(enrolments)
    .set({ state: 'WAITING_FOR_APPROVAL', ...wait, ...unapproved, updatedAt: sql`now()` })
    .where(eq(enrolments.id, enrolment.id));
  await db.update(ownershipTokens).set({ expiresAt: closesAt }).where(eq(ownershipTokens.enrolmentId, enrolment.id));
  const device = registration.name;
  await insertAudit(db, `claim/${enrolment.claimId}`, {
    action: 'enrolment.waiting',
    subject: `enrolment/${enrolment.id}`,
    data: { device, waitsFor },
  });
  const kinds: Happened[] =
    waitsFor === 'device-exists' ? ['enrolment.waiting', 'device.clone-suspected'] : ['enrolment.waiting'];
  await tell(db, kinds, enrolment, { device, waitsFor, closesAt: closesAt.toISOString() });
}

/** Whose judgement it is, and how the enrolment's lifecycle is woken: `db` knows no workflow. */
export type Judgement = {
  id: string;
  actor: Actor;
  lifecycle: { idPrefix: string; poke: string };
  reason?: string | undefined;
};
export type Judged = 'judged' | 'not-waiting' | 'unknown';

/** An operator's consent. It holds from its commit on; the lifecycle, or the device's next request, carries it out. */
export const approveEnrolment = (db: Db, judgement: Judgement): Promise<Judged> =>
  judge(db, judgement, async (tx, enrolment) => {
    const { actor } = judgement;
    await tx
      .update(enrolments)
      .set({ approvedBy: actor, approvedAt: sql`now()`, updatedAt: sql`now()` })
      .where(eq(enrolments.id, enrolment.id));
    const subject = `enrolment/${enrolment.id}`;
    await insertAudit(tx, actor, { action: 'enrolment.approved', subject, data: deviceOf(enrolment) });
    await tell(tx, ['enrolment.approved'], enrolment, { ...deviceOf(enrolment), by: actor });
  });

/** An operator's no: the certificate, when there is one, is revoked, and the claim gets its slot back. */
export const denyEnrolment = (db: Db, judgement: Judgement): Promise<Judged> =>
  judge(db, judgement, (tx, enrolment) => deny(tx, enrolment, judgement.actor, judgement.reason));

/** Denies what an operator had approved of, because by the time it was carried out it broke a rule. */
export async function refuseApproved(db: Db, id: string, reason: string): Promise<void> {
  await db.transaction(async (tx) => {
    const found = await lockEnrolment(tx, id);
    if (found?.enrolment.state === 'WAITING_FOR_APPROVAL') await deny(tx, found.enrolment, 'system/lifecycle', reason);
  });
}

async function deny(tx: Db, enrolment: EnrolmentRow, actor: Actor, reason?: string): Promise<void> {
  await tx
    .update(enrolments)
    .set({ state: 'DENIED', updatedAt: sql`now()` })
    .where(eq(enrolments.id, enrolment.id));
  if (enrolment.certificateId) {
    const revocation = { id: enrolment.certificateId, reason: 'denied', from: ['PENDING_ACTIVATION' as const] };
    await revokeCertificate(tx, revocation);
    const subject = `certificate/${enrolment.certificateId}`;
    await insertAudit(tx, actor, { action: 'certificate.revoked', subject, data: { reason: 'denied' } });
  }
  await releaseClaimSlot(tx, enrolment.claimId);
  const data = { ...deviceOf(enrolment), ...(reason !== undefined && { reason }) };
  await insertAudit(tx, actor, { action: 'enrolment.denied', subject: `enrolment/${enrolment.id}`, data });
  await tell(tx, ['enrolment.denied'], enrolment, { ...data, by: actor });
}

const deviceOf = ({ registration }: EnrolmentRow) => ({ device: registration?.name ?? '' });

async function judge(
  db: Db,
  { id, lifecycle }: Judgement,
  carryOut: (tx: Db, enrolment: EnrolmentRow) => Promise<void>,
): Promise<Judged> {
  return db.transaction(async (tx) => {
    const found = await lockEnrolment(tx, id);
    if (!found) return 'unknown';
    const { enrolment, isOver } = found;
    if (enrolment.state !== 'WAITING_FOR_APPROVAL' || enrolment.approvedAt || isOver) return 'not-waiting';
    await carryOut(tx, enrolment);
    const workflowId = lifecycle.idPrefix + enrolment.key;
    await appendToOutbox(tx, [{ kind: 'signal', workflowId, name: lifecycle.poke, argument: {} }]);
    return 'judged';
  });
}

/** What the template's hook has answered to this key before. */
export async function findHookAnswer(db: Db, key: string) {
  const [row] = await db.select().from(hookAnswers).where(eq(hookAnswers.key, key));
  return row;
}

/** The first answer stays. */
export async function keepHookAnswer(db: Db, answer: typeof hookAnswers.$inferInsert): Promise<void> {
  await db.insert(hookAnswers).values(answer).onConflictDoNothing();
}

/** The sealed secret of a template's hook. */
export async function findHookSecret(db: Db, template: string): Promise<Uint8Array | undefined> {
  const [row] = await db.select().from(templateHooks).where(eq(templateHooks.template, template));
  return row?.sealedSecret;
}

/** Ends the promise to retire what the enrolment replaced; the device and the certificate that stays, once. */
export async function takeSuperseding(db: Db, id: string) {
  const [row] = await db
    .update(enrolments)
    .set({ supersedes: false, updatedAt: sql`now()` })
    .where(and(eq(enrolments.id, id), enrolments.supersedes))
    .returning({ deviceId: enrolments.deviceId, certificateId: enrolments.certificateId });
  return row;
}
