import { and, asc, eq, gt, sql } from 'drizzle-orm';
import { insertAudit, type Actor } from './audit.ts';
import type { Db } from './client.ts';
import { text, type Fields, type Page } from './fields.ts';
import { claims, keyKinds, templateHooks, templates, type TemplateDefinition } from './enrolment-schema.ts';

export type TemplateRow = typeof templates.$inferSelect;

/** What GET /templates may be filtered by; there are few templates. */
export const templateFields: Fields = { name: text(templates.name) };

/** A definition with everything that one from before did not say: what it meant when it was written. */
export const readDefinition = (definition: TemplateDefinition): Required<TemplateDefinition> => ({
  groups: [],
  keys: [...keyKinds],
  existing: 'reject',
  approval: false,
  approvalWithinHours: 72,
  hook: null,
  ...definition,
});

export async function findTemplate(db: Db, name: string): Promise<TemplateRow | undefined> {
  const [row] = await db.select().from(templates).where(eq(templates.name, name));
  return row;
}

export async function listTemplates(db: Db, { filter, after, limit }: Page<[name: string]>): Promise<TemplateRow[]> {
  return db
    .select()
    .from(templates)
    .where(and(filter, after && gt(templates.name, after[0])))
    .orderBy(asc(templates.name))
    .limit(limit);
}

/** Undefined when the name is taken. A template with a hook has its sealed secret with it. */
export async function insertTemplate(
  db: Db,
  actor: Actor,
  template: { name: string; definition: TemplateDefinition },
  sealedSecret: Uint8Array,
): Promise<TemplateRow | undefined> {
  return db.transaction(async (tx) => {
    const [row] = await tx.insert(templates).values(template).onConflictDoNothing().returning();
    if (!row) return undefined;
    await keepHook(tx, row, sealedSecret);
    await insertAudit(tx, actor, { action: 'template.created', subject: `template/${row.name}`, data: {} });
    return row;
  });
}

/**
 * Undefined when there is none of this name. Enrolments that are under way read the new definition. The secret is for a
 * hook that had none; `isNewSecret` says whether it was taken.
 */
export async function replaceTemplate(
  db: Db,
  actor: Actor,
  { name, definition }: { name: string; definition: TemplateDefinition },
  sealedSecret: Uint8Array,
): Promise<{ row: TemplateRow; isNewSecret: boolean } | undefined> {
  return db.transaction(async (tx) => {
    const [row] = await tx
      .update(templates)
      .set({ definition, version: sql`${templates.version} + 1`, updatedAt: sql`now()` })
      .where(eq(templates.name, name))
      .returning();
    if (!row) return undefined;
    const isNewSecret = await keepHook(tx, row, sealedSecret);
    const data = { version: row.version };
    await insertAudit(tx, actor, { action: 'template.replaced', subject: `template/${name}`, data });
    return { row, isNewSecret };
  });
}

/** Keeps the secret that a hook has, gives one to a hook that has none, and forgets that of a hook that is gone. */
async function keepHook(db: Db, { name, definition }: TemplateRow, sealedSecret: Uint8Array): Promise<boolean> {
  if (!definition.hook) {
    await db.delete(templateHooks).where(eq(templateHooks.template, name));
    return false;
  }
  const kept = await db
    .insert(templateHooks)
    .values({ template: name, sealedSecret })
    .onConflictDoNothing()
    .returning({ template: templateHooks.template });
  return kept.length === 1;
}

/** Another secret for the template's hook; false when it has no hook, or there is none of this name. */
export async function replaceHookSecret(
  db: Db,
  actor: Actor,
  name: string,
  sealedSecret: Uint8Array,
): Promise<boolean> {
  return db.transaction(async (tx) => {
    const changed = await tx
      .update(templateHooks)
      .set({ sealedSecret, createdAt: sql`now()` })
      .where(eq(templateHooks.template, name))
      .returning({ template: templateHooks.template });
    if (changed.length === 0) return false;
    await insertAudit(tx, actor, { action: 'template.secret-replaced', subject: `template/${name}`, data: {} });
    return true;
  });
}

/** False when a claim names it, revoked or not, or there is none. */
export async function deleteTemplate(db: Db, actor: Actor, name: string): Promise<boolean> {
  const unclaimed = sql`not exists (select from ${claims} where ${claims.template} = ${name})`;
  return db.transaction(async (tx) => {
    // Locked first: a claim that is being made holds the row, and is seen by the next statement.
    await tx.select({ name: templates.name }).from(templates).where(eq(templates.name, name)).for('update');
    const deleted = await tx
      .delete(templates)
      .where(and(eq(templates.name, name), unclaimed))
      .returning({ name: templates.name });
    if (deleted.length === 0) return false;
    await insertAudit(tx, actor, { action: 'template.deleted', subject: `template/${name}`, data: {} });
    return true;
  });
}
