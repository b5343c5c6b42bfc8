import { createRoute, z } from '@hono/zod-openapi';
import { answer, createRouter } from './schemas.ts';

/** Each resolves when its part is there, and rejects when it is not. */
export type Probes = Record<'postgres' | 'schema' | 'temporal', () => Promise<void>>;

const probeWithinMs = 2_000;
const rememberMs = 500;

const part = z.enum(['ok', 'missing']);
const readiness = z
  .object({ ready: z.boolean(), parts: z.object({ postgres: part, schema: part, temporal: part }) })
  .openapi('Readiness');

const alive = createRoute({
  method: 'get',
  path: '/healthz',
  operationId: 'getHealth',
  tags: ['health'],
  security: [],
  summary: 'The process answers',
  responses: { 200: answer('It does', z.object({ status: z.literal('ok') })) },
});

const ready = createRoute({
  method: 'get',
  path: '/readyz',
  operationId: 'getReadiness',
  tags: ['health'],
  security: [],
  summary: 'Everything that the API works with is there',
  responses: { 200: answer('All of it', readiness), 503: answer('Some part is missing', readiness) },
});

/** Public: nothing here says more than which part is missing. */
export function healthRoutes({ probes }: { probes: Probes }) {
  const check = remember(() => checkAll(probes));
  return createRouter()
    .openapi(alive, (c) => c.json({ status: 'ok' as const }, 200))
    .openapi(ready, async (c) => {
      const state = await check();
      return c.json(state, state.ready ? 200 : 503);
    });
}

async function checkAll(probes: Probes) {
  const [postgres, schema, temporal] = await Promise.all([
    probe(probes.postgres),
    probe(probes.schema),
    probe(probes.temporal),
  ]);
  const parts = { postgres, schema, temporal };
  return { ready: Object.values(parts).every((state) => state === 'ok'), parts };
}

async function probe(ask: () => Promise<void>): Promise<'ok' | 'missing'> {
  const late = Promise.withResolvers<never>();
  const timer = setTimeout(() => late.reject(new Error('no answer')), probeWithinMs);
  try {
    await Promise.race([ask(), late.promise]);
    return 'ok';
  } catch {
    return 'missing';
  } finally {
    clearTimeout(timer);
  }
}

/** Strangers may ask: however often they do, the parts are asked twice a second at most. */
function remember<Value>(ask: () => Promise<Value>): () => Promise<Value> {
  let last: { at: number; answer: Promise<Value> } | undefined;
  return () => {
    if (!last || performance.now() - last.at > rememberMs) last = { at: performance.now(), answer: ask() };
    return last.answer;
  };
}
