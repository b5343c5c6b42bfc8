import { createRoute, z } from '@hono/zod-openapi';
import type { EventPosition } from '../db/events.ts';
import { findRollout } from '../db/rollouts.ts';
import type { RouteDeps } from './app.ts';
import { createEventStreams } from './event-streams.ts';
import { Problem } from './problem.ts';
import * as schemas from './schemas.ts';
import { notFound, otherwise } from './schemas.ts';

const follow = createRoute({
  method: 'get',
  path: '/rollouts/{id}/events',
  operationId: 'followRollout',
  summary: 'What happens to it, as it happens',
  description: `Server-sent events, from the first on, or from the one after \`Last-Event-ID\`. Each is told once. Comments
say that the stream is alive. It ends from time to time; its client comes again with the last id that it has.`,
  tags: ['rollouts'],
  request: {
    params: z.object({ id: schemas.uuid }),
    headers: z.object({ 'last-event-id': z.string().optional().openapi({ description: 'The `id` of an event' }) }),
  },
  responses: {
    200: {
      description: 'Events named after what happened, such as `execution.succeeded` or `rollout.paused`',
      content: { 'text/event-stream': { schema: z.string() } },
    },
    ...otherwise,
  },
});

const headers = {
  'Content-Type': 'text/event-stream; charset=utf-8',
  'Cache-Control': 'no-store',
  'X-Accel-Buffering': 'no',
};

export function rolloutEventRoutes(deps: RouteDeps) {
  const open = createEventStreams(deps);
  return schemas.createRouter().openapi(follow, async (c) => {
    const { id } = c.req.valid('param');
    const after = readPosition(c.req.valid('header')['last-event-id']);
    if (!(await findRollout(c.var.db, id))) throw notFound();
    return c.body(open(c.var.credential, `rollout/${id}`, after), 200, headers);
  });
}

const first: EventPosition = { xid: '0', id: '00000000-0000-0000-0000-000000000000' };
const eventId = /^(\d{1,20})-([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})$/;

function readPosition(text: string | undefined): EventPosition {
  if (text === undefined) return first;
  const [, xid, id] = eventId.exec(text) ?? [];
  if (xid !== undefined && id !== undefined && BigInt(xid) < 2n ** 64n) return { xid, id };
  throw new Problem('malformed-query', 'Last-Event-ID is the id of an event of this stream.', {
    errors: [{ parameter: 'Last-Event-ID', detail: 'it is not the id of an event' }],
  });
}
