import { and, asc, eq, gt, sql } from 'drizzle-orm';
import { insertAudit, type Actor } from './audit.ts';
import type { Db } from './client.ts';
import { text, type Fields, type Page } from './fields.ts';
import { claims, templates, type TemplateDefinition } from './schema.ts';

export type TemplateRow = typeof templates.$inferSelect;

/** What GET /templates may be filtered by; there are few templates. */
export const templateFields: Fields = { name: text(templates.name) };

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

/** Undefined when the name is taken. */
export async function insertTemplate(
  db: Db,
  actor: Actor,
  template: { name: string; definition: TemplateDefinition },
): Promise<TemplateRow | undefined> {
  return db.transaction(async (tx) => {
    const [row] = await tx.insert(templates).values(template).onConflictDoNothing().returning();
    if (row) await insertAudit(tx, actor, { action: 'template.created', subject: `template/${row.name}`, data: {} });
    return row;
  });
}

/** Undefined when there is none of this name. Enrolments that are under way read the new definition. */
export async function replaceTemplate(
  db: Db,
  actor: Actor,
  { name, definition }: { name: string; definition: TemplateDefinition },
): Promise<TemplateRow | undefined> {
  return db.transaction(async (tx) => {
    const [row] = await tx
      .update(templates)
      .set({ definition, version: sql`${templates.version} + 1`, updatedAt: sql`now()` })
      .where(eq(templates.name, name))
      .returning();
    if (!row) return undefined;
    const data = { version: row.version };
    await insertAudit(tx, actor, { action: 'template.replaced', subject: `template/${name}`, data });
    return row;
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
