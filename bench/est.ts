import { interleave, rateRow, type Row } from './measure.ts';
import { keyEncryptionKeyFile, type Rig } from './rig.ts';

const count = 48;
const atATime = 8;
const rounds = 4;
/** EST has no parameters: devices name themselves in their requests. */
const template = 'bench-est';

/** By one claim token; the device's first connection over MQTT is not part of it. */
export async function est(rig: Rig): Promise<Row[]> {
  const { load, bare, running, dataDir, tls } = rig;
  const { api, doors, postgres } = running.stack;
  const signing = { databaseUrl: postgres.url, keyEncryptionKeyFile: keyEncryptionKeyFile(dataDir) };
  const other = rig.server(await bare.run('startSigningServer', { ...tls, ...signing }));
  const server = rig.server(Number(new URL(doors.url).port));
  await post(api, '/v1/templates', {
    name: template,
    definition: { namePattern: '${request.commonName}', parameters: [] },
  });
  const permitted = { kind: 'token', template, usesMax: 10_000, ratePerMinute: 100_000 };
  const { token } = await post(api, '/v1/claims', permitted);
  const pairs = await interleave({
    rounds,
    async product() {
      await load.run('prepareRequests', { count });
      return load.run('enrolByEst', { server, token, atATime });
    },
    async baseline() {
      await load.run('prepareRequests', { count: count * 10 });
      return load.run('enrolByEst', { server: other, atATime });
    },
  });
  return [rateRow('EST enrolments, a TLS connection each, 8 at a time', pairs, { must: 0.4, aim: 0.7 })];
}

async function post(
  { url, token }: { url: string; token: string },
  path: string,
  body: object,
): Promise<{ token: string }> {
  const headers = { authorization: `Bearer ${token}`, 'content-type': 'application/json' };
  const answered = await fetch(`${url}${path}`, { method: 'POST', headers, body: JSON.stringify(body) });
  if (!answered.ok) throw new Error(`answered ${answered.status}: ${await answered.text()}`);
  // Of a claim for a token; what is answered to the other is not looked at.
  return (await answered.json()) as { token: string };
}
