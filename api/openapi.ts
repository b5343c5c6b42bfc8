import type { OpenAPIHono } from '@hono/zod-openapi';
import type { Api } from './app.ts';

const description = `Manners: every error is a problem (RFC 9457). Unknown fields are refused. A POST may carry an
\`Idempotency-Key\`, kept for 24 h: the same key and body give the first answer again. Lists are paged by the \`Link\`
header. Times are RFC 3339 in UTC.`;

/** Serves the description of every route that is registered, made from the schemas that parse its requests. */
export function describeApi(app: OpenAPIHono<Api>, version: string): void {
  app.openAPIRegistry.registerComponent('securitySchemes', 'apiKey', { type: 'http', scheme: 'bearer' });
  const document = {
    openapi: '3.1.0',
    info: { title: 'Longhaul', version, description, license: { name: 'Apache-2.0', identifier: 'Apache-2.0' } },
    servers: [{ url: '/' }],
    security: [{ apiKey: [] }],
  };
  let made: object | undefined;
  app.get('/v1/openapi.json', (c) => c.json((made ??= app.getOpenAPI31Document(document))));
}
