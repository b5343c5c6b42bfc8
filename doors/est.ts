import { Hono, type Context } from 'hono';
import { bodyLimit } from 'hono/body-limit';
import { Problem } from '../api/problem.ts';
import { listAuthorities } from '../db/authorities.ts';
import { findTemplate, readDefinition } from '../db/templates.ts';
import { encodeCsrAttributes } from '../pki/csr-attributes.ts';
import { trustBundleOf } from '../pki/trust-bundle.ts';
import { refusal } from '../workflows/refusals.ts';
import { takeAccepted } from './answers.ts';
import type { DoorRouteDeps, DoorsEnv } from './app.ts';
import { credentialsMissing, readToken } from './credentials.ts';
import type { Permit } from './entrance.ts';
import { isRequestType, leafOf, readRequest, writeCertificates } from './est-bodies.ts';
import { addressOf, certificateRefused, findManufacturedPeer, findPeer } from './peers.ts';

const bodyBytesMax = 64 * 1024;
const certsOnly = 'application/pkcs7-mime; smime-type=certs-only';

/**
 * Enrolment over Secure Transport (RFC 7030, as RFC 8951 clarifies it). A label is the name of a template, and may only
 * confirm the one that the claim is for. EST has no place for parameters: templates name its devices by their requests.
 */
export function estRoutes({ db, entrance, renew, tokens, answer }: DoorRouteDeps) {
  async function caCertificates(c: Context<DoorsEnv>): Promise<Response> {
    const { certificatesPem } = trustBundleOf(await listAuthorities(db));
    return say(c, 'application/pkcs7-mime', writeCertificates(certificatesPem));
  }

  /** A label that is no template is answered like none: nobody learns here which there are. */
  async function csrAttributes(c: Context<DoorsEnv>): Promise<Response> {
    const label = c.req.param('label');
    const template = label === undefined ? undefined : await findTemplate(db, label);
    const keys = template ? readDefinition(template.definition).keys : [];
    return say(c, 'application/csrattrs', encodeCsrAttributes(keys).toString('base64'));
  }

  async function enrol(c: Context<DoorsEnv>): Promise<Response> {
    const permit = await findPermit(c);
    const label = c.req.param('label');
    if (label !== undefined && label !== permit.template) {
      throw refusal('TemplateNotPermitted', 'this claim is for another template', 403);
    }
    const csr = await readCsr(c);
    const work = () => tokens.conceal(() => entrance.enrol(permit, { csr, parameters: {} }));
    return sayCertificate(c, takeAccepted(await answer(work)));
  }

  /** By a claim token, and without one by a certificate which the handshake has proven: a claim's, or a manufacturer's. */
  async function findPermit(c: Context<DoorsEnv>): Promise<Permit> {
    const peer = await findPeer(db, c.env);
    const token = readToken(c.req.header('authorization'), { basic: true });
    if (token !== undefined) return tokens.permit({ token, address: addressOf(c.env) });
    const manufactured = peer ? undefined : await findManufacturedPeer(db, c.env);
    if (manufactured) return manufactured.permit;
    if (!peer?.claimId || !peer.template) throw credentialsMissing();
    if (peer.refusal) throw certificateRefused(peer.refusal);
    return { claimId: peer.claimId, template: peer.template };
  }

  async function renewCertificate(c: Context<DoorsEnv>): Promise<Response> {
    const peer = await findPeer(db, c.env);
    if (!peer?.deviceId || !peer.deviceName)
      throw refusal('CertificateMissing', "this takes a device's current certificate", 403);
    const hasEnded = peer.refusal === 'CertificateExpired';
    if (peer.refusal && !hasEnded) throw certificateRefused(peer.refusal);
    const csr = await readCsr(c);
    const { deviceId, deviceName: name, certificateId } = peer;
    return sayCertificate(c, takeAccepted(await answer(() => renew({ deviceId, name, certificateId, hasEnded }, csr))));
  }

  const operations = new Hono<DoorsEnv>()
    .get('/cacerts', (c) => caCertificates(c))
    .get('/csrattrs', (c) => csrAttributes(c))
    .post('/simpleenroll', limitBody, (c) => enrol(c))
    .post('/simplereenroll', limitBody, (c) => renewCertificate(c));
  return new Hono<DoorsEnv>().route('/.well-known/est', operations).route('/.well-known/est/:label', operations);
}

const limitBody = bodyLimit({
  maxSize: bodyBytesMax,
  onError: () => {
    throw new Problem('too-large', `A body may have ${bodyBytesMax} bytes at most.`);
  },
});

async function readCsr(c: Context<DoorsEnv>): Promise<Uint8Array> {
  if (!isRequestType(c.req.header('content-type'))) {
    throw new Problem('unsupported-media-type', 'The body must be application/pkcs10.');
  }
  const csr = readRequest(new Uint8Array(await c.req.arrayBuffer()));
  if (csr) return csr;
  throw refusal('InvalidCsr', 'the request must be DER in base64', 400);
}

/** RFC 7030 4.2.3: the certificate that was issued, and no other. */
const sayCertificate = (c: Context, { certificatePem }: { certificatePem: string }): Response =>
  say(c, certsOnly, writeCertificates(leafOf(certificatePem)));

const say = (c: Context, contentType: string, base64: string): Response =>
  c.body(base64, 200, {
    'Content-Type': contentType,
    'Content-Transfer-Encoding': 'base64',
    'Content-Length': String(base64.length),
    'Cache-Control': 'no-store',
  });
