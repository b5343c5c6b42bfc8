import { createRoute, z } from '@hono/zod-openapi';
import { findDevice } from '../db/devices.ts';
import { beginOf } from '../db/rotation-beginnings.ts';
import { rotationReasons } from '../db/rotation-schema.ts';
import { findOpenRotation } from '../db/rotations.ts';
import { rotateCertificateId } from '../workflows/rotate-certificate.ts';
import type { RouteDeps } from './app.ts';
import { lifecycleOf } from './lifecycles.ts';
import { Problem } from './problem.ts';
import * as schemas from './schemas.ts';
import { answer, notFound, otherwise } from './schemas.ts';

const rotation = z
  .object({
    id: schemas.uuid,
    device: schemas.deviceName,
    certificateId: schemas.certificateId.openapi({ description: 'What is replaced' }),
    state: z.string(),
    reason: z.enum(rotationReasons),
    attempt: z.int(),
    begunAt: schemas.instant,
    lifecycle: schemas.lifecycle,
  })
  .openapi('Rotation');

const rotate = createRoute({
  method: 'post',
  path: '/devices/{name}/rotations',
  operationId: 'rotateCertificate',
  summary: 'Replaces the certificate of a device now',
  description: `The device is ordered to make a key and to ask for a certificate for it; the order waits for one that is away. The old
certificate ends a while after the first connection with the new one, and not before. While one is under way, asking again is the same.`,
  tags: ['certificates'],
  request: { params: z.object({ name: schemas.deviceName }) },
  responses: { 202: answer('Begun, or under way', rotation), ...otherwise },
});

export const rotationRoutes = (temporal: RouteDeps) =>
  schemas.createRouter().openapi(rotate, async (c) => {
    const { db, actor } = c.var;
    const found = await findDevice(db, c.req.valid('param').name);
    if (!found) throw notFound();
    const { id: deviceId, name } = found.device;
    const workflow = { idPrefix: rotateCertificateId(''), name: 'rotateCertificate' };
    await beginOf(db, { deviceId, reason: 'requested', askedBy: actor, workflow });
    const open = await findOpenRotation(db, deviceId);
    if (!open) throw new Problem('conflict', 'The device is blocked, or has no certificate that it could replace.');
    const { id, certificateId, state, reason, attempt, begunAt } = open;
    const lifecycle = lifecycleOf(temporal, rotateCertificateId(name));
    const shown = {
      id,
      device: name,
      certificateId,
      state,
      reason,
      attempt,
      begunAt: begunAt.toISOString(),
      lifecycle,
    };
    return c.json(shown, 202);
  });
