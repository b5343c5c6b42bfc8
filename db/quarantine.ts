import { randomUUIDv7 } from 'node:crypto';
import type { Db } from './client.ts';
import { quarantine } from './schema.ts';

type Refused = { deviceId: string | null; topic: string; payload: Uint8Array; error: string };

/** Keeps what the database refused although it looked right, for a person to see. */
export async function insertQuarantined(db: Db, refused: Refused): Promise<void> {
  await db.insert(quarantine).values({ id: randomUUIDv7(), ...refused });
}
