import { hash, randomUUIDv7 } from 'node:crypto';
import { createRoute, z } from '@hono/zod-openapi';
import { countLiving, findAuthority, listAuthorities, type AuthorityRow } from '../db/authorities.ts';
import * as requests from '../db/authority-requests.ts';
import { beginRollover } from '../db/rollovers.ts';
import { AuthorityFault, readIssuing, readRoot } from '../pki/authority-certificates.ts';
import { makeRequest } from '../pki/keys.ts';
import { SignerFault, type Signer } from '../pki/signers.ts';
import { rolloverAuthorityId } from '../workflows/rollover-authority.ts';
import type { RouteDeps } from './app.ts';
import { lifecycleOf } from './lifecycles.ts';
import { Problem } from './problem.ts';
import * as schemas from './schemas.ts';
import { answer, body, notFound, otherwise } from './schemas.ts';

/** Makes an issuing key in the named place; undefined where that is not configured. */
export type MakeIssuingKey = (
  place: AuthorityRow['signer'],
  label: string,
) => Promise<{ signer: Signer; row: Pick<AuthorityRow, 'signer' | 'signerKey' | 'encryptedKey'> } | undefined>;

const tags = ['authorities'];
const path = '/authorities/{id}';
const params = z.object({ id: schemas.uuid });
const hourMs = 3_600_000;

const signer = z.enum(['database', 'pkcs11']);
const certificatePem = z.string().min(1).max(32_768).openapi({ description: 'One certificate in PEM' });
const commonName = schemas.plainText(64).min(1);

const authority = z
  .object({
    id: schemas.uuid,
    kind: z.enum(['root', 'issuing']),
    state: z.enum(['PENDING', 'STANDBY', 'ACTIVE', 'RETIRED', 'REVOKED']).openapi({
      description: 'PENDING waits for its certificate, STANDBY to take over. ACTIVE issues; a root is trusted',
    }),
    signer: signer.nullable().openapi({ description: "Where its key is kept; a root's is not here" }),
    subject: z.string(),
    parentId: schemas.uuid.nullable(),
    notAfter: schemas.instant.nullable(),
    certificates: z.int().openapi({ description: 'How many certificates of it live' }),
    csrPem: z.string().optional().openapi({ description: 'While it is PENDING: what a root is to certify' }),
    certificatePem: z.string().optional(),
    createdAt: schemas.instant,
  })
  .openapi('Authority');

const newAuthority = z
  .discriminatedUnion('kind', [
    z.strictObject({ kind: z.literal('issuing'), signer: signer.default('database'), name: commonName.optional() }),
    z.strictObject({ kind: z.literal('root'), certificatePem }),
  ])
  .openapi('NewAuthority', { description: 'A key for the next issuing authority, or a root whose key is elsewhere' });

const rollover = z
  .strictObject({ acknowledgeWithinHours: z.int().min(0).max(8_760).default(720) })
  .openapi('AuthorityRollover', {
    description: 'How long devices that have not acknowledged a new root are waited for; 0 waits for nobody',
  });

const routes = {
  list: createRoute({
    method: 'get',
    path: '/authorities',
    operationId: 'listAuthorities',
    summary: 'Every authority that is or was, and keys that wait for a certificate',
    tags,
    responses: { 200: answer('All of them: there are few', z.object({ items: z.array(authority) })), ...otherwise },
  }),
  create: createRoute({
    method: 'post',
    path: '/authorities',
    operationId: 'createAuthority',
    summary: 'Makes the key of the next issuing authority, or trusts another root beside the last',
    tags,
    request: { body: body(newAuthority) },
    responses: { 201: answer('Made', authority), ...otherwise },
  }),
  certify: createRoute({
    method: 'put',
    path: `${path}/certificate`,
    operationId: 'certifyAuthority',
    summary: 'Brings the certificate that a root has signed for a pending authority',
    tags,
    request: { params, body: body(z.strictObject({ certificatePem }).openapi('AuthorityCertificate')) },
    responses: { 200: answer('It stands by', authority), ...otherwise },
  }),
  withdraw: createRoute({
    method: 'delete',
    path,
    operationId: 'withdrawAuthority',
    summary: 'Gives up a pending authority',
    tags,
    request: { params },
    responses: { 204: { description: 'Given up' }, ...otherwise },
  }),
  activate: createRoute({
    method: 'post',
    path: `${path}/activate`,
    operationId: 'activateAuthority',
    summary: 'Has the authority take over from those that issue',
    description: `Its lifecycle tells devices of a new root, waits until they have acknowledged, switches, and has what lives under
the others replaced. Asked again before the switch, it changes the time that is waited.`,
    tags,
    request: { params, body: body(rollover) },
    responses: { 202: answer('Begun', authority.extend({ lifecycle: schemas.lifecycle })), ...otherwise },
  }),
};

export const authorityRoutes = ({ makeIssuingKey, ...temporal }: RouteDeps) => {
  async function makePending(place: AuthorityRow['signer'], name?: string) {
    const id = randomUUIDv7();
    const subject = name ?? `Longhaul issuing authority ${id.slice(-8)}`;
    const made = await makeIssuingKey(place, `longhaul-issuing-${id}`).catch((error: unknown) => {
      if (error instanceof SignerFault) throw new Problem('unavailable', `The key was not made: ${error.message}.`);
      throw error;
    });
    if (!made) throw new Problem('conflict', `This process knows no ${place}: configure it first.`);
    const csrPem = await makeRequest(made.signer, subject);
    const spkiSha256 = spkiHash(made.signer);
    return { id, name: subject, csrPem, spkiSha256, ...made.row };
  }

  return schemas
    .createRouter()
    .openapi(routes.list, async (c) => {
      const [rows, pending, living] = await Promise.all([
        listAuthorities(c.var.db),
        requests.listAuthorityRequests(c.var.db),
        countLiving(c.var.db),
      ]);
      const known = rows.toSorted((a, b) => a.createdAt.getTime() - b.createdAt.getTime());
      return c.json(
        { items: [...known.map((row) => present(row, living.get(row.id))), ...pending.map(presentPending)] },
        200,
      );
    })
    .openapi(routes.create, async (c) => {
      const asked = c.req.valid('json');
      if (asked.kind === 'root') {
        const {
          x509: _,
          der: __,
          fingerprint: ___,
          subject: name,
          ...root
        } = read(() => readRoot(asked.certificatePem));
        const row = await requests.insertRoot(c.var.db, c.var.actor, { id: randomUUIDv7(), name, ...root });
        if (!row) throw new Problem('conflict', 'There is or was an authority of this key.');
        c.var.tell({ trust: true });
        return c.json(present(row), 201);
      }
      const row = await makePending(asked.signer, asked.name);
      if (!(await requests.insertAuthorityRequest(c.var.db, c.var.actor, row)))
        throw new Problem('conflict', 'Too many wait for a certificate: withdraw one.');
      return c.json(presentPending({ ...row, createdAt: new Date() }), 201);
    })
    .openapi(routes.certify, async (c) => {
      const { id } = c.req.valid('param');
      const { certificatePem: pem } = c.req.valid('json');
      const [request, done, all] = await Promise.all([
        requests.findAuthorityRequest(c.var.db, id),
        findAuthority(c.var.db, id),
        listAuthorities(c.var.db),
      ]);
      if (done) return c.json(present(sameAgain(done, pem)), 200);
      if (!request) throw notFound();
      const roots = all.filter(({ kind, state }) => kind === 'root' && state === 'ACTIVE');
      const { issuing, root } = read(() => readIssuing(pem, { spkiSha256: request.spkiSha256, roots }));
      const { x509: _, der: __, fingerprint: ___, subject: name, ...certificate } = issuing;
      const certified = { id, name, parentId: root.id, ...certificate };
      const row = await requests.certifyRequest(c.var.db, c.var.actor, certified);
      if (!row)
        throw new Problem('conflict', 'The request was certified or withdrawn, or its root retired, at this moment.');
      c.var.tell({ trust: true });
      return c.json(present(row), 200);
    })
    .openapi(routes.withdraw, async (c) => {
      const { id } = c.req.valid('param');
      if (await requests.deleteAuthorityRequest(c.var.db, c.var.actor, id)) return c.body(null, 204);
      throw (await findAuthority(c.var.db, id))
        ? new Problem('conflict', 'It has its certificate: retire or revoke it.')
        : notFound();
    })
    .openapi(routes.activate, async (c) => {
      const { id: authorityId } = c.req.valid('param');
      const { acknowledgeWithinHours } = c.req.valid('json');
      const row = await findAuthority(c.var.db, authorityId);
      if (!row) throw notFound();
      if (row.kind !== 'issuing' || row.state !== 'STANDBY')
        throw new Problem('conflict', `Only an issuing authority that stands by can take over; it is ${row.state}.`);
      const acknowledgeBy = new Date(Date.now() + acknowledgeWithinHours * hourMs);
      const workflow = { idPrefix: rolloverAuthorityId(''), name: 'rolloverAuthority' };
      await beginRollover(c.var.db, c.var.actor, { authorityId, acknowledgeBy, workflow });
      return c.json({ ...present(row), lifecycle: lifecycleOf(temporal, rolloverAuthorityId(authorityId)) }, 202);
    });
};

function read<Result>(judge: () => Result): Result {
  try {
    return judge();
  } catch (error) {
    if (!(error instanceof AuthorityFault)) throw error;
    const detail = error.message;
    throw new Problem('authority-refused', `The certificate is refused: ${detail}.`, {
      errors: [{ pointer: '/certificatePem', detail }],
    });
  }
}

/** The same certificate again is the same answer; another is never bound to an authority that has one. */
function sameAgain(row: AuthorityRow, pem: string): AuthorityRow {
  if (row.certificatePem.replaceAll(/\s/g, '') === pem.replaceAll(/\s/g, '')) return row;
  throw new Problem('conflict', 'The authority has its certificate, for good.');
}

const spkiHash = ({ spki }: Signer) => hash('sha256', spki, 'buffer');

const present = (row: AuthorityRow, certificates = 0) => ({
  id: row.id,
  kind: row.kind,
  state: row.state,
  signer: row.kind === 'root' ? null : row.signer,
  subject: row.name,
  parentId: row.parentId,
  notAfter: row.notAfter.toISOString(),
  certificates,
  certificatePem: row.certificatePem,
  createdAt: row.createdAt.toISOString(),
});

const presentPending = (row: requests.AuthorityRequestRow) => ({
  id: row.id,
  kind: 'issuing' as const,
  state: 'PENDING' as const,
  signer: row.signer,
  subject: `CN=${row.name}`,
  parentId: null,
  notAfter: null,
  certificates: 0,
  csrPem: row.csrPem,
  createdAt: row.createdAt.toISOString(),
});
