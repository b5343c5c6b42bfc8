import { and, eq, isNotNull, ne, or } from 'drizzle-orm';
import { insertAudit, type Actor } from './audit.ts';
import type { Db } from './client.ts';
import { isNamed } from './devices.ts';
import { registeredDevices } from './registration-schema.ts';
import { devices } from './schema.ts';

/**
 * Whether a key is not the one to enrol this device with: a file has registered another for the device, or this one for
 * another. Ask once the device's row is locked; one that is not there yet has no id.
 */
export async function isKeyOfAnother(db: Db, spkiSha256: Uint8Array, deviceId?: string): Promise<boolean> {
  const { deviceId: id, spkiSha256: key } = registeredDevices;
  const ofDevice = deviceId === undefined ? undefined : and(eq(id, deviceId), ne(key, spkiSha256));
  const ofOthers = and(deviceId === undefined ? undefined : ne(id, deviceId), eq(key, spkiSha256));
  const [row] = await db
    .select({ deviceId: registeredDevices.deviceId })
    .from(registeredDevices)
    .where(or(ofDevice, ofOthers))
    .limit(1);
  return row !== undefined;
}

/** From now on any key may enrol under the name. False when none was registered for it. */
export async function releaseKey(db: Db, actor: Actor, name: string): Promise<boolean> {
  return db.transaction(async (tx) => {
    const [device] = await tx.select({ id: devices.id, name: devices.name }).from(devices).where(isNamed(name));
    if (!device) return false;
    const released = await tx
      .update(registeredDevices)
      .set({ spkiSha256: null })
      .where(and(eq(registeredDevices.deviceId, device.id), isNotNull(registeredDevices.spkiSha256)))
      .returning({ deviceId: registeredDevices.deviceId });
    if (released.length === 0) return false;
    await insertAudit(tx, actor, { action: 'device.key-released', subject: `device/${device.name}`, data: {} });
    return true;
  });
}
