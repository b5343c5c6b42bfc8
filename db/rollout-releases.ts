import { and, desc, eq, exists, inArray, isNull } from 'drizzle-orm';
import type { Db } from './client.ts';
import { artifacts, deviceSoftware, releases } from './rollout-schema.ts';

/**
 * The releases of a product that have these versions and are not revoked, each with its artifact's size. Who revokes one
 * waits for this transaction, and so sees the jobs that it makes of them.
 */
export async function findReleasesOf(db: Db, product: string, versions: string[]) {
  if (versions.length === 0) return [];
  const isWanted = and(eq(releases.product, product), inArray(releases.version, versions), isNull(releases.revokedAt));
  const rows = await db
    .select({ release: releases, size: artifacts.size })
    .from(releases)
    .innerJoin(artifacts, eq(artifacts.sha256, releases.artifact))
    .where(isWanted)
    .for('share', { of: releases });
  return rows.map(({ release, size }) => ({ ...release, size }));
}

/** The highest counter among a product's releases, revoked ones too, that some device says it runs; null when none does. */
export async function findFleetCounter(db: Db, product: string): Promise<number | null> {
  const runs = db
    .select({ deviceId: deviceSoftware.deviceId })
    .from(deviceSoftware)
    .where(and(eq(deviceSoftware.product, releases.product), eq(deviceSoftware.version, releases.version)));
  const [row] = await db
    .select({ counter: releases.securityCounter })
    .from(releases)
    .where(and(eq(releases.product, product), exists(runs)))
    .orderBy(desc(releases.securityCounter))
    .limit(1);
  return row?.counter ?? null;
}
