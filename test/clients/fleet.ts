import { execFile } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { expect } from 'vitest';
import { eventually } from '../support/eventually.ts';
import type { System } from '../support/system.ts';

const run = promisify(execFile);

export type ClaimOptions = { serverMadeKeys?: boolean; usesMax?: number };
export type Claim = { id: string; template: string; certificate: string; privateKey: string };

/** A template of its own and a claim for it, made as an operator makes them. Names are `pump-${serial}`. */
export async function makeClaim({ ask }: System, { serverMadeKeys = false, usesMax = 100 }: ClaimOptions = {}) {
  const template = `line-${randomBytes(4).toString('hex')}`;
  const definition = {
    namePattern: 'pump-${serial}',
    parameters: ['serial', 'site'],
    attributes: { site: '${site}' },
    configuration: { site: '${site}', interval: '60' },
    serverMadeKeys,
  };
  expect(await ask('POST', '/v1/templates', { name: template, definition })).toMatchObject({ status: 201 });
  const answer = await ask('POST', '/v1/claims', { template, usesMax, ratePerMinute: 10_000 });
  expect(answer).toMatchObject({ status: 201 });
  const { id, certificate } = answer.body as unknown as {
    id: string;
    certificate: { certificatePem: string; privateKey: string };
  };
  return { id, template, certificate: certificate.certificatePem, privateKey: certificate.privateKey } satisfies Claim;
}

let count = 0;
/** Parameters that no other device has. */
export const freshParameters = () => ({ serial: `${randomBytes(4).toString('hex')}-${(count += 1)}`, site: 'basel' });

/** A key and a request for it, made with the openssl program as a factory would. */
export async function makeCsr(algorithm: 'ec' | 'rsa' = 'ec'): Promise<{ csr: string; privateKey: string }> {
  const folder = await mkdtemp(join(tmpdir(), 'longhaul-csr-'));
  try {
    const [key, csr] = [join(folder, 'key.pem'), join(folder, 'csr.pem')];
    const kind = { ec: ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256'], rsa: ['-newkey', 'rsa:2048'] };
    await run('openssl', ['req', '-new', ...kind[algorithm], '-nodes', '-subj', '/', '-keyout', key, '-out', csr]);
    return { csr: await readFile(csr, 'utf8'), privateKey: await readFile(key, 'utf8') };
  } finally {
    await rm(folder, { recursive: true });
  }
}

export type Target = {
  executionId: string;
  status: string;
  result: Record<string, unknown> | null;
  deliveredAt: string | null;
  transitions: { status: string; by: string }[];
};
type Command = { id: string; finishedAt: string | null; targets: Target[] };

export async function sendCommand({ ask }: System, device: string, payload: unknown): Promise<Command> {
  const answer = await ask('POST', '/v1/commands', { targets: device, payload, timeoutSeconds: 300 });
  expect(answer).toMatchObject({ status: 202 });
  // By the API's own description of it, which a test of its own holds it to.
  return answer.body as unknown as Command;
}

export async function readCommand({ ask }: System, id: string): Promise<Command> {
  const answer = await ask('GET', `/v1/commands/${id}`);
  expect(answer).toMatchObject({ status: 200 });
  return answer.body as unknown as Command;
}

/** The command once its lifecycle says that it is over. */
export const finished = (system: System, id: string): Promise<Command> =>
  eventually(async () => {
    const command = await readCommand(system, id);
    return command.finishedAt !== null && command;
  });

/** Who asked, and with which code it was refused, the youngest last. */
export async function listRefusals({ ask }: System, claim: Claim): Promise<string[]> {
  const filter = encodeURIComponent(`subject==claim/${claim.id};action==enrolment.refused`);
  const answer = await ask('GET', `/v1/audit?filter=${filter}&limit=200`);
  expect(answer).toMatchObject({ status: 200 });
  const { items } = answer.body as unknown as { items: { data: { code: string } }[] };
  return items.map(({ data }) => data.code).toReversed();
}

export const executionTopic = (device: string, executionId: string, rest: string) =>
  `$aws/commands/things/${device}/executions/${executionId}/${rest}`;
