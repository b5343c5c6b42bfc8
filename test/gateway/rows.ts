import { randomBytes, randomUUIDv7 } from 'node:crypto';
import { sql } from 'drizzle-orm';
import { insertCommands } from '../../db/commands.ts';
import type { Database } from '../../db/client.ts';
import { devices, sessions } from '../../db/schema.ts';
import type { Session } from '../../gateway/messages.ts';
import { sendCommandId } from '../../workflows/send-command.ts';

export async function makeDevice(db: Database, name = `pump-${randomBytes(4).toString('hex')}`) {
  const device = { id: randomUUIDv7(), name, state: 'ACTIVE' as const };
  await db.insert(devices).values(device);
  return device;
}

type CommandOptions = { timeoutSeconds?: number; payload?: string; format?: 'json' | 'cbor' | 'other' };

/** A command as the API records it. Gives the execution ids in the order of the devices. */
export async function makeCommand(
  db: Database,
  targets: { name: string }[],
  { timeoutSeconds = 60, payload = '{"do":"it"}', format = 'json' }: CommandOptions = {},
) {
  const id = randomUUIDv7();
  const executions = targets.map(({ name }) => ({
    name,
    executionId: randomUUIDv7(),
    transitionId: randomUUIDv7(),
  }));
  const command = {
    id,
    actor: 'api-key/test',
    payload: Buffer.from(payload),
    format,
    contentType: 'application/json',
    timeoutSeconds,
    workflow: { id: sendCommandId(id), name: 'sendCommand' },
    auditId: randomUUIDv7(),
    targets: executions,
  };
  await insertCommands(db, [command]);
  return { id, executionIds: executions.map(({ executionId }) => executionId) };
}

/** The row of a session that has connected now. */
export async function openSession(db: Database, { key, clientId, identity, protocol }: Session): Promise<void> {
  const deviceId = identity.kind === 'device' ? identity.deviceId : null;
  const row = {
    identity: key,
    clientId,
    gatewayId: randomUUIDv7(),
    certificateId: identity.certificateId,
    deviceId,
    protocol,
  };
  const connectedAt = sql`clock_timestamp()`;
  await db
    .insert(sessions)
    .values({ ...row, connectedAt })
    .onConflictDoUpdate({ target: [sessions.identity, sessions.clientId], set: { connectedAt } });
}
