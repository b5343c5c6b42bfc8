import { OpenAPIHono, z } from '@hono/zod-openapi';
import * as rules from '../db/device-rules.ts';
import { filterLengthMax } from '../db/filters.ts';
import type { Api } from './app.ts';
import { Problem, type Fault } from './problem.ts';

/** The rule for names of devices and of services. */
export const deviceName = z
  .string()
  .regex(rules.deviceNamePattern, 'a name is 1 to 63 of A-Z a-z 0-9 _ . : - and starts with a letter or digit')
  .openapi('DeviceName', { example: 'pump-17' });

export const templateName = z
  .string()
  .regex(/^[A-Za-z0-9][A-Za-z0-9_-]{0,35}$/, 'a name is 1 to 36 of A-Z a-z 0-9 _ - and starts with a letter or digit')
  .openapi('TemplateName', { example: 'pumps' });

export const groupName = z
  .string()
  .regex(
    /^[A-Za-z0-9][A-Za-z0-9_.:-]{0,62}$/,
    'a name is 1 to 63 of A-Z a-z 0-9 _ . : - and starts with a letter or digit',
  )
  .openapi('GroupName', { example: 'canaries' });

export const uuid = z.uuid().openapi({ example: '0193b4a8-7d5e-7c3a-9d54-6f1f2b7a4c11' });
export const certificateId = z.string().regex(/^[0-9a-f]{64}$/, '64 hexadecimal digits');
export const instant = z.iso.datetime({ precision: 3 }).openapi({ example: '2026-11-23T12:00:00.000Z' });

export const attributeName = z
  .string()
  .regex(rules.attributeNamePattern, 'a name is 1 to 128 of A-Z a-z 0-9 _ . : - and starts with a letter or digit');

export const plainText = (lengthMax: number) =>
  z.string().max(lengthMax).refine(rules.isPlain, 'it holds a control character');

export const attributeValue = plainText(rules.attributeValueLengthMax);

export const attributes = z
  .record(attributeName, attributeValue)
  .refine(
    (record) => Object.keys(record).length <= rules.attributesMax,
    `there are at most ${rules.attributesMax} of them`,
  )
  .openapi('Attributes', { example: { line: 'north' } });

/** Over devices; what else is wrong with it is found when it is compiled. */
export const deviceFilter = plainText(filterLengthMax).min(1).openapi('DeviceFilter', {
  description: 'RSQL over devices',
  example: 'attributes.site==berlin;version.pump-firmware!=1.3.*',
});

export const listQuery = z.strictObject({
  filter: z
    .string()
    .min(1)
    .max(filterLengthMax)
    .optional()
    .openapi({ description: 'RSQL, such as `state==ACTIVE;name==pump-*`' }),
  limit: z.coerce.number().int().min(1).max(500).default(100),
  cursor: z
    .string()
    .min(1)
    .max(1_000)
    .optional()
    .openapi({ description: 'From the `Link` header, with the same filter' }),
});

/** Where the operator can watch what was started. */
export const lifecycle = z
  .object({ workflowId: z.string(), runId: z.string().optional(), url: z.url() })
  .openapi('Lifecycle');

const problem = z
  .object({
    type: z.string(),
    title: z.string(),
    status: z.int(),
    detail: z.string(),
    errors: z
      .array(z.object({ detail: z.string(), pointer: z.string().optional(), parameter: z.string().optional() }))
      .optional(),
  })
  .openapi('Problem');

/** The parts of a route that every noun spells alike. */
export const body = <Schema extends z.ZodType>(schema: Schema) => ({
  content: { 'application/json': { schema } },
  required: true,
});
export const answer = <Schema extends z.ZodType>(description: string, schema: Schema) => ({
  description,
  content: { 'application/json': { schema } },
});
export const listOf = <Schema extends z.ZodType>(description: string, item: Schema) => ({
  ...answer(description, z.object({ items: z.array(item) })),
  headers: z.object({ link: z.string().optional().openapi({ description: '`<…>; rel="next"` while there is more' }) }),
});
const problemAnswer = {
  description: 'A problem (RFC 9457)',
  content: { 'application/problem+json': { schema: problem } },
};
export const otherwise = { '4XX': problemAnswer, '5XX': problemAnswer };

/** A router whose validators speak in problems: a bad path is unknown, a bad query 400, a bad body 422 with pointers. */
export const createRouter = () =>
  new OpenAPIHono<Api>({
    defaultHook: (result) => {
      if (result.success) return;
      // The validators parse with zod's classic flavour, whose issues these are.
      const issues = result.error.issues as Issue[];
      if (result.target === 'param') throw notFound();
      if (result.target === 'query') throw badQuery(issues);
      throw new Problem('invalid', 'The body breaks a rule; each fault is listed.', {
        errors: issues.flatMap(faultsOf),
      });
    },
  });

export const notFound = (what = 'of this name or id') => new Problem('not-found', `There is nothing ${what}.`);

type Issue = { path: PropertyKey[]; message: string; code?: string; keys?: string[] };

function badQuery(issues: Issue[]): Problem {
  const errors = issues.flatMap(({ path, keys, message }) =>
    (keys ?? path).map((name) => ({ parameter: String(name), detail: message })),
  );
  return new Problem('malformed-query', 'The query is not understood; each fault is listed.', { errors });
}

/** A field that nobody knows is pointed at itself, not at the object around it. */
export function faultsOf({ path, message, keys }: Issue): Fault[] {
  if (keys) return keys.map((key) => ({ pointer: pointerTo([...path, key]), detail: 'the field is not known' }));
  return [{ pointer: pointerTo(path), detail: message }];
}

/** RFC 6901. */
export const pointerTo = (path: PropertyKey[]) =>
  path.map((part) => `/${String(part).replaceAll('~', '~0').replaceAll('/', '~1')}`).join('');
