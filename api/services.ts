import { createHash, X509Certificate } from 'node:crypto';
import { createRoute, z } from '@hono/zod-openapi';
import { insertService } from '../db/services.ts';
import { judgeCsr } from '../pki/csr-policy.ts';
import type { RouteDeps } from './app.ts';
import { certificateRow, issue } from './claims.ts';
import { Problem } from './problem.ts';
import * as schemas from './schemas.ts';
import { answer, body, otherwise } from './schemas.ts';

const lifetimeMs = 365 * 86_400_000;

const newService = z
  .strictObject({
    name: schemas.deviceName,
    csr: z.string().min(1).max(32_768).openapi({ description: 'A PKCS #10 request in PEM; only its key is taken' }),
  })
  .openapi('NewService');

const service = z
  .object({
    name: schemas.deviceName,
    certificateId: schemas.certificateId,
    certificatePem: z.string().openapi({ description: 'The chain, the service certificate first' }),
    notAfter: schemas.instant,
  })
  .openapi('Service');

const create = createRoute({
  method: 'post',
  path: '/services',
  operationId: 'createService',
  summary: 'Certifies an application that hears presence events over MQTT',
  description: 'Its certificates are listed by `GET /v1/certificates?filter=kind==service`.',
  tags: ['services'],
  request: { body: body(newService) },
  responses: { 201: answer('Certified', service), ...otherwise },
});

export function serviceRoutes({ authority }: RouteDeps) {
  return schemas.createRouter().openapi(create, async (c) => {
    const { name, csr } = c.req.valid('json');
    const forbiddenSpki = [authority.certificatePem, authority.rootPem].map(hashKeyOf);
    const judged = await judgeCsr(csr, { expectedNames: [name, `urn:longhaul:service:${name}`], forbiddenSpki });
    if ('refused' in judged) throw refused(judged.refused.detail);
    const { publicKey } = judged.accepted;
    const issued = await issue(authority, { profile: 'service', subject: { service: name }, publicKey, lifetimeMs });
    if (!(await insertService(c.var.db, c.var.actor, name, certificateRow(issued, name)))) throw keyInUse();
    const { certificateId, chainPem: certificatePem, notAfter } = issued;
    return c.json({ name, certificateId, certificatePem, notAfter: notAfter.toISOString() }, 201);
  });
}

const hashKeyOf = (pem: string) =>
  createHash('sha256')
    .update(new X509Certificate(pem).publicKey.export({ type: 'spki', format: 'der' }))
    .digest();

const refused = (detail: string) => new Problem('csr-refused', detail, { errors: [{ pointer: '/csr', detail }] });

const keyInUse = () =>
  new Problem('conflict', 'This key has a certificate already: a service needs a key of its own.', {
    errors: [{ pointer: '/csr', detail: 'the key is in use' }],
  });
