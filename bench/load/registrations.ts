import { performance } from 'node:perf_hooks';
import { createHash, randomBytes } from 'node:crypto';
import { pipeline } from 'node:stream/promises';
import { Readable } from 'node:stream';
import { setTimeout as pause } from 'node:timers/promises';
import postgres from 'postgres';

type Api = { url: string; token: string };

/** Lines as a factory writes them: name, serial, fingerprint of the key, two attributes. */
function makeRows(count: number) {
  const batch = randomBytes(4).toString('hex');
  return Array.from({ length: count }, (_, index) => ({
    name: `bulk-${batch}-${index}`,
    serial: `SN-${batch}-${index}`,
    fingerprint: createHash('sha256').update(`${batch} ${index}`).digest('hex'),
  }));
}

export const registrationJobs = {
  /** Sends a file and waits until it is read. Returns lines per second, from the first byte of the request on. */
  async registerFile({ url, token, count }: Api & { count: number }): Promise<number> {
    const lines = makeRows(count).map((row) => `${row.name},${row.serial},${row.fingerprint},north,rev-a\n`);
    const file = `name,serial,fingerprint,attributes.site,attributes.hardware\n${lines.join('')}`;
    const headers = { authorization: `Bearer ${token}` };
    const startedAt = performance.now();
    const begun = await fetch(`${url}/v1/registrations`, {
      method: 'POST',
      headers: { ...headers, 'content-type': 'text/csv' },
      body: file,
    });
    if (begun.status !== 202) throw new Error(`answered ${begun.status}: ${await begun.text()}`);
    const { id } = (await begun.json()) as { id: string };
    for (;;) {
      const answer = await fetch(`${url}/v1/registrations/${id}`, { headers });
      const { state, registered } = (await answer.json()) as { state: string; registered: number };
      if (state === 'FINISHED' && registered === count) return count / ((performance.now() - startedAt) / 1_000);
      if (state === 'FINISHED') throw new Error(`${registered} of ${count} are registered`);
      await pause(20);
    }
  },

  /** The same rows by COPY into the two tables that know a device that was registered ahead. */
  async copyRows({ databaseUrl, count }: { databaseUrl: string; count: number }): Promise<number> {
    const sql = postgres(databaseUrl, { max: 1 });
    const registrationId = crypto.randomUUID();
    const rows = makeRows(count).map((row) => ({ ...row, id: crypto.randomUUID() }));
    const devices = rows.map(({ id, name, serial }) => {
      return `${id}\t${name}\tREGISTERED\t{"site": "north", "hardware": "rev-a", "serial": "${serial}"}\n`;
    });
    const keys = rows.map(({ id, fingerprint }, line) => `${id}\t${registrationId}\t${line}\t\\\\x${fingerprint}\n`);
    const startedAt = performance.now();
    await sql.begin(async (tx) => {
      await pipeline(
        Readable.from([devices.join('')]),
        await tx`copy devices (id, name, state, attributes) from stdin`.writable(),
      );
      await pipeline(
        Readable.from([keys.join('')]),
        await tx`copy registered_devices (device_id, registration_id, line, spki_sha256) from stdin`.writable(),
      );
    });
    const perSecond = count / ((performance.now() - startedAt) / 1_000);
    await sql.end();
    return perSecond;
  },
};
