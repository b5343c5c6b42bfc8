import { sql } from 'drizzle-orm';
import { publishRevocationList } from '../../activities/revocation-lists.ts';
import { connect, type Database } from '../../db/client.ts';
import type { Authority } from '../../pki/authority.ts';
import { openSigner } from '../../workers/signer.ts';
import { openConnection, requestOf, type Connection } from './http.ts';
import { each, openClient, type Client, type Server } from './mqtt.ts';
import type { LoadDevice } from './reports.ts';

let lists: { db: Database; authority: Authority } | undefined;
let held: { clients: Map<string, Client>; kicker: Client } | undefined;

export const revocationJobs = {
  /** So many revoked certificates of the authority, as rows. */
  async makeRevoked(options: { databaseUrl: string; keyEncryptionKeyFile: string; count: number }) {
    const db = connect({ url: options.databaseUrl, applicationName: 'longhaul bench' });
    const authority = await openSigner(db, options);
    await db.execute(sql`
      insert into certificates (id, kind, subject, authority_id, serial, fingerprint, spki_sha256, pem, state,
        revocation_reason, not_before, not_after, revoked_at)
      select encode(sha256(n::text::bytea), 'hex'), 'device', 'bench', ${authority.id}::uuid,
        '4' || substr(encode(sha256(n::text::bytea), 'hex'), 1, 31), sha256(n::text::bytea), sha256(n::text::bytea), '',
        'REVOKED', 'superseded', now(), now() + interval '1 year', now() - make_interval(secs => n)
      from generate_series(1, ${options.count}::int) n`);
    lists = { db, authority };
  },

  /** Milliseconds to publish the list: its rows read, the list made, signed and verified, and put into its row. */
  async publishList(): Promise<number> {
    if (!lists) throw new Error('there is no list');
    const startedAt = performance.now();
    await publishRevocationList(lists.db, lists.authority);
    return performance.now() - startedAt;
  },

  /** The first of them is no device, but whoever tells a broker whom to kick. */
  async holdDevices({ server, devices }: { server: Server; devices: LoadDevice[] }) {
    const clients = new Map<string, Client>();
    await each(devices, 32, async ({ name, ...credentials }) => {
      clients.set(name, await openClient(server, { credentials, clientId: name }));
    });
    const [first] = clients;
    if (!first) throw new Error('there is no device');
    clients.delete(first[0]);
    held = { clients, kicker: first[1] };
  },

  /** Milliseconds from the request to revoke until the device's socket is closed, one after the other. */
  async revokeHeld({ port, token, victims }: { port: number; token: string; victims: Victim[] }): Promise<number[]> {
    await using api = await openConnection(port);
    // Awaited here: the connection is closed at the end of this block.
    return await timeCloses(victims, ({ certificateId }) => revoke(api, { port, token, certificateId }));
  },

  async kickHeld({ victims }: { victims: Victim[] }): Promise<number[]> {
    return timeCloses(victims, async ({ name }) => {
      const packet = { cmd: 'publish', topic: 'kick', payload: name, qos: 0, dup: false, retain: false } as const;
      held?.kicker.send(packet);
    });
  },

  async releaseDevices() {
    for (const client of [...(held?.clients.values() ?? []), ...(held ? [held.kicker] : [])]) client.socket.destroy();
    held = undefined;
  },
};

type Victim = { name: string; certificateId: string };

async function timeCloses(victims: Victim[], end: (victim: Victim) => Promise<void>): Promise<number[]> {
  const figures: number[] = [];
  for (const victim of victims) {
    const client = held?.clients.get(victim.name);
    if (!client) throw new Error(`${victim.name} is not connected`);
    const closed = new Promise<void>((resolve) => client.socket.once('close', () => resolve()));
    const startedAt = performance.now();
    await Promise.all([end(victim), closed.then(() => figures.push(performance.now() - startedAt))]);
  }
  return figures;
}

async function revoke(
  api: Connection,
  { port, token, certificateId }: { port: number; token: string; certificateId: string },
): Promise<void> {
  const path = `/v1/certificates/${certificateId}/revoke`;
  const { status, body } = await api.post(requestOf({ port, path, token, body: { reason: 'keyCompromise' } }));
  if (status !== 202) throw new Error(`answered ${status}: ${body}`);
}
