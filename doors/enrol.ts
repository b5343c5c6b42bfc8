import { Hono } from 'hono';
import { z } from 'zod';
import { readBodies } from '../api/bodies.ts';
import { Problem } from '../api/problem.ts';
import { faultsOf } from '../api/schemas.ts';
import { listAuthorities } from '../db/authorities.ts';
import type { Db } from '../db/client.ts';
import { trustBundleOf } from '../pki/trust-bundle.ts';
import { takeAccepted } from './answers.ts';
import type { DoorRouteDeps, DoorsEnv } from './app.ts';
import { credentialsMissing, readToken } from './credentials.ts';
import type { Enrolled } from './entrance.ts';
import { addressOf, findPeer } from './peers.ts';

const bodyBytesMax = 64 * 1024;
const parametersMax = 50;

const enrolment = z.strictObject({
  csr: z.string().min(1).max(32_768),
  parameters: z
    .record(z.string().max(64), z.string().max(1_000))
    .refine((given) => Object.keys(given).length <= parametersMax, `there are at most ${parametersMax} of them`)
    .default({}),
});

/** `POST /v1/enroll`: a device for a claim token, in one step. The same token, key and parameters are answered the same. */
export function enrolRoutes({ db, entrance, tokens, answer }: DoorRouteDeps) {
  return new Hono<DoorsEnv>().post('/v1/enroll', readBodies({ bytesMax: bodyBytesMax }), async (c) => {
    const token = readToken(c.req.header('authorization'), { basic: false });
    if (token === undefined) throw credentialsMissing();
    await findPeer(db, c.env);
    const permit = await tokens.permit({ token, address: addressOf(c.env) });
    const asked = read(await c.req.json());
    const enrolled = takeAccepted(await answer(() => tokens.conceal(() => entrance.enrol(permit, asked))));
    return c.json(await present(db, enrolled), 201, { 'Cache-Control': 'no-store' });
  });
}

function read(body: unknown): z.infer<typeof enrolment> {
  const { success, data, error } = enrolment.safeParse(body);
  if (success) return data;
  const errors = error.issues.flatMap(({ path, message, ...issue }) =>
    faultsOf({ path, message, ...('keys' in issue && { keys: issue.keys }) }),
  );
  throw new Problem('invalid', 'The body breaks a rule; each fault is listed.', { errors });
}

const present = async (db: Db, { certificateId, certificatePem, deviceName, configuration }: Enrolled) => ({
  deviceName,
  certificateId,
  certificatePem,
  configuration,
  trustBundle: trustBundleOf(await listAuthorities(db)),
  serverTime: new Date().toISOString(),
});
