import { and, desc, lt } from 'drizzle-orm';
import type { Db } from './client.ts';
import { createIds } from './ids.ts';
import { instant, text, type Fields, type Page } from './fields.ts';
import { audit } from './schema.ts';

/** Everything that the audit knows to say. Past tense; ids and names, never a secret; the subject is `<noun>/<id or name>`. */
export type AuditEntry =
  | { action: 'authority.created'; subject: string; data: { kind: 'root' | 'issuing'; notAfter: string } }
  | { action: 'authority.requested'; subject: string; data: { name: string; signer: string } }
  | { action: 'authority.withdrawn'; subject: string; data: Record<string, never> }
  | { action: 'authority.certified'; subject: string; data: { parentId: string; notAfter: string } }
  | { action: 'authority.rollover-begun'; subject: string; data: { acknowledgeBy: string } }
  | { action: 'authority.activated'; subject: string; data: { unacknowledged: number } }
  | { action: 'authority.rollover-finished'; subject: string; data: { outcome: string } }
  | { action: 'trust-bundle.published'; subject: string; data: { roots: number; sha256: string } }
  | { action: 'authority.retired'; subject: string; data: Record<string, never> }
  | { action: 'authority.revoked'; subject: string; data: { reason: string } }
  | { action: 'authority.ending'; subject: string; data: { months: number; notAfter: string } }
  | { action: 'api-key.created' | 'api-key.revoked'; subject: string; data: { name: string } }
  | {
      action: 'template.created' | 'template.replaced' | 'template.secret-replaced' | 'template.deleted';
      subject: string;
      data: { version?: number };
    }
  | { action: 'claim.created'; subject: string; data: { template: string; usesMax: number; expiresAt: string } }
  | { action: 'claim.revoked'; subject: string; data: Record<string, never> }
  | { action: 'manufacturer-code.created'; subject: string; data: { expiresAt: string } }
  | {
      action: 'manufacturer-authority.registered';
      subject: string;
      data: { template: string; claimId: string; notAfter: string };
    }
  | { action: 'manufacturer-authority.retired'; subject: string; data: Record<string, never> }
  | { action: 'service.created'; subject: string; data: { certificateId: string } }
  | {
      action: 'device.registered';
      subject: string;
      /** By an enrolment, by an operator, or by a line of a file. */
      data: { template?: string; certificateId?: string; registrationId?: string; line?: number };
    }
  | { action: 'device.key-released'; subject: string; data: Record<string, never> }
  | { action: 'registration.created'; subject: string; data: { size: number; sha256: string } }
  | {
      action: 'registration.finished' | 'registration.canceled';
      subject: string;
      data: { registered: number; refused: number };
    }
  | { action: 'device.changed'; subject: string; data: { attributes: string[] } }
  | { action: 'device.blocked' | 'device.unblocked'; subject: string; data: { reason?: string } }
  | { action: 'device.decommissioned'; subject: string; data: Record<string, never> }
  | { action: 'device.erased'; subject: string; data: { erased: Record<string, number>; unheard: string[] } }
  | { action: 'group.created' | 'group.changed'; subject: string; data: { filter?: string } }
  | { action: 'group.members-changed'; subject: string; data: { added: number; removed: number } }
  | { action: 'group.deleted'; subject: string; data: Record<string, never> }
  | {
      action: 'certificate.issued';
      subject: string;
      data: { kind: string; claimId?: string; rotationId?: string; spkiSha256: string };
    }
  | {
      action: 'certificate.adopted';
      subject: string;
      data: { claimId: string; manufacturerAuthorityId: string; spkiSha256: string };
    }
  | { action: 'certificate.ending'; subject: string; data: { device: string; notAfter: string } }
  | {
      action: 'rotation.begun';
      subject: string;
      data: { rotationId: string; certificateId: string; reason: string };
    }
  | { action: 'rotation.finished'; subject: string; data: { rotationId: string; outcome: string; attempt: number } }
  | { action: 'recovery.asked'; subject: string; data: { device: string; spkiSha256: string } }
  | { action: 'recovery.granted' | 'recovery.denied'; subject: string; data: { device: string } }
  | { action: 'rotation-policy.put'; subject: string; data: Record<string, number | boolean> }
  | { action: 'certificate.activated'; subject: string; data: { device: string } }
  | { action: 'certificate.revoked'; subject: string; data: { reason: string } }
  | {
      action: 'certificate.revocation-proven' | 'certificate.revocation-unconfirmed';
      subject: string;
      data: RevocationMeasured;
    }
  | {
      action: 'enrolment.refused' | 'command.refused' | 'job.refused' | 'software.refused';
      subject: string;
      data: { code: string; detail: string };
    }
  | { action: 'enrolment.lapsed'; subject: string; data: { certificateId?: string; claimId: string } }
  | { action: 'enrolment.waiting'; subject: string; data: { device: string; waitsFor: string } }
  | { action: 'enrolment.approved'; subject: string; data: { device: string } }
  | { action: 'enrolment.denied'; subject: string; data: { device: string; reason?: string } }
  | { action: 'connection.refused'; subject: string; data: { code: string; address?: string } }
  | { action: 'topic.refused'; subject: string; data: { action: string; topic: string; code: string } }
  | { action: 'command.created'; subject: string; data: { targets: number; timeoutSeconds: number } }
  | { action: 'command.canceled'; subject: string; data: { targets: number } }
  | { action: 'command.timed-out'; subject: string; data: { targets: number } }
  | { action: 'artifact.stored'; subject: string; data: { size: number } }
  | { action: 'release-key.created'; subject: string; data: { name: string; products: string[] | null } }
  | { action: 'release-key.revoked'; subject: string; data: { reason: string; releases: number } }
  | { action: 'order-key.published'; subject: string; data: { state: 'SIGNING' | 'STANDBY' } }
  | { action: 'order-key.retired'; subject: string; data: Record<string, never> }
  | { action: 'release.created'; subject: string; data: { product: string; version: string; keyId: string } }
  | { action: 'release.revoked'; subject: string; data: { reason: string } }
  | { action: 'rollout.created'; subject: string; data: { release?: string } }
  | { action: 'rollout.changed'; subject: string; data: { revision: number; changed: string[] } }
  | { action: 'rollout.approved'; subject: string; data: { planHash: string } }
  | { action: 'rollout.denied'; subject: string; data: { planHash: string; reason?: string } }
  | {
      action: 'rollout.started' | 'rollout.paused' | 'rollout.undone';
      subject: string;
      data: Record<string, never>;
    }
  | { action: 'rollout.resumed'; subject: string; data: { wave?: number } }
  | { action: 'rollout.stopped'; subject: string; data: { inProgress: 'finish' | 'cancel' } }
  | { action: 'rollout.retried'; subject: string; data: { devices: number; kinds: string[] } }
  | { action: 'rollout.decided'; subject: string; data: { kind: string; words: string } };

/** Times of a revocation, each as the database knows it; null is what did not happen. */
type RevocationMeasured = {
  reason: string;
  askedAt: string | null;
  revokedAt: string | null;
  closedAt: string | null;
  listedAt: string | null;
  listNumber: number | null;
  sessionsClosed: number;
  /** How many gateways confirmed, and those that did not. */
  gateways: number;
  unheard: string[];
};

/** Who did it: `api-key/<id>`, `device/<name>`, `claim/<id>`, `service/<name>`, `rotation-policy/<name>` or `system/<part>`. */
export type Actor = string;

/** Writes entries in the transaction of the change that they tell of. */
export async function insertAudit(db: Db, actor: Actor, ...entries: AuditEntry[]): Promise<void> {
  if (entries.length === 0) return;
  const nextId = createIds(); // in the order in which they are given
  await db.insert(audit).values(entries.map((entry) => ({ id: nextId(), actor, ...entry })));
}

export type AuditRow = typeof audit.$inferSelect;

/** What GET /audit may be filtered by. An actor has no index: it is looked for along the time, which `at` bounds. */
export const auditFields: Fields = {
  subject: text(audit.subject),
  action: text(audit.action),
  actor: text(audit.actor),
  at: instant(audit.at, { id: audit.id }),
};

/** The youngest first. */
export async function listAudit(db: Db, { filter, after, limit }: Page<[id: string]>): Promise<AuditRow[]> {
  return db
    .select()
    .from(audit)
    .where(and(filter, after && lt(audit.id, after[0])))
    .orderBy(desc(audit.id))
    .limit(limit);
}
