import { createRoute, z } from '@hono/zod-openapi';
import { askDecommission } from '../db/decommissions.ts';
import { findDevice } from '../db/devices.ts';
import { decommissionDeviceId } from '../workflows/decommission-device.ts';
import type { RouteDeps } from './app.ts';
import { device, presentDevice } from './devices.ts';
import { lifecycleOf } from './lifecycles.ts';
import * as schemas from './schemas.ts';
import { answer, notFound, otherwise } from './schemas.ts';

const decommission = createRoute({
  method: 'post',
  path: '/devices/{name}/decommission',
  operationId: 'decommissionDevice',
  summary: 'Takes a device out of the fleet for good',
  description: `Blocked when this is answered. Its lifecycle revokes its certificates, cuts its sessions, ends its executions and
commands, and erases its data. The audit stays, and so does its name, which nobody can enrol under. Asking again gives the same
answer.`,
  tags: ['devices'],
  request: { params: z.object({ name: schemas.deviceName }) },
  responses: {
    202: answer('Blocked for good', device.extend({ lifecycle: schemas.lifecycle }).openapi('DecommissionedDevice')),
    ...otherwise,
  },
});

export const decommissionRoutes = (temporal: RouteDeps) =>
  schemas.createRouter().openapi(decommission, async (c) => {
    const workflow = { idPrefix: decommissionDeviceId(''), name: 'decommissionDevice' };
    const asked = await askDecommission(c.var.db, c.var.actor, { name: c.req.valid('param').name, workflow });
    const found = asked && (await findDevice(c.var.db, asked.name));
    if (!found) throw notFound();
    c.var.tell({ feed: true });
    const lifecycle = lifecycleOf(temporal, decommissionDeviceId(found.device.id));
    return c.json({ ...presentDevice(found.device), lifecycle }, 202);
  });
