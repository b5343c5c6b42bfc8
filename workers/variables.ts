import { isIP } from 'node:net';
import { z } from 'zod';

/** What several processes read from their environment, and how each of them reads it. */
export type Environment = Record<string, string | undefined>;

/** A process does not start on a bad environment: every fault is listed at once, by the variable's name. */
export class ConfigurationFault extends Error {
  override name = 'ConfigurationFault';
}

export const port = (fallback: number) => z.coerce.number().int().min(0).max(65_535).default(fallback);
export const flag = z.enum(['true', 'false']).transform((value) => value === 'true');
export const webUrl = z.url({ protocol: /^https?$/, error: 'must be an http:// or https:// address' });
const postgresUrl = z.url({ protocol: /^postgres(ql)?$/, error: 'must be a postgres:// address' });

export const database = {
  DATABASE_URL: postgresUrl,
  DATABASE_DIRECT_URL: postgresUrl.optional(),
  DATABASE_PREPARE: flag.default(true),
  DATABASE_POOL_MAX: z.coerce.number().int().min(1).max(1_000).default(10),
};

export const logging = {
  LOG_LEVEL: z.enum(['fatal', 'error', 'warn', 'info', 'debug', 'trace']).default('info'),
};

/** A folder, or a bucket; who we are there, the usual `AWS_…` variables say, which the S3 client reads by itself. */
export const artifacts = {
  LONGHAUL_ARTIFACTS_FOLDER: z.string().min(1).optional(),
  LONGHAUL_ARTIFACTS_BUCKET: z.string().min(3).max(63).optional(),
  LONGHAUL_ARTIFACTS_PREFIX: z.string().max(256).default(''),
  LONGHAUL_ARTIFACTS_REGION: z.string().min(1).default('us-east-1'),
  LONGHAUL_ARTIFACTS_ENDPOINT: webUrl.optional(),
};

type Read<Variables extends z.ZodRawShape> = z.infer<z.ZodObject<Variables>>;

export const hasOneStore = (env: Partial<Read<typeof artifacts>>): boolean =>
  (env.LONGHAUL_ARTIFACTS_FOLDER === undefined) !== (env.LONGHAUL_ARTIFACTS_BUCKET === undefined);

export const oneStore = {
  path: ['LONGHAUL_ARTIFACTS_FOLDER'],
  error: 'either a folder or a bucket (LONGHAUL_ARTIFACTS_BUCKET) must be given',
  // Beside other faults as well: all are said at once.
  when: () => true,
};

export function storeOf(env: Read<typeof artifacts>) {
  const { LONGHAUL_ARTIFACTS_FOLDER: folder, LONGHAUL_ARTIFACTS_BUCKET: bucket = '' } = env;
  if (folder !== undefined) return { folder };
  return {
    s3: {
      bucket,
      prefix: env.LONGHAUL_ARTIFACTS_PREFIX,
      region: env.LONGHAUL_ARTIFACTS_REGION,
      endpoint: env.LONGHAUL_ARTIFACTS_ENDPOINT,
    },
  };
}

export function databaseOf(env: Read<typeof database>) {
  const { DATABASE_URL: url, DATABASE_DIRECT_URL: directUrl = url } = env;
  return { database: { url, max: env.DATABASE_POOL_MAX, prepare: env.DATABASE_PREPARE }, databaseDirectUrl: directUrl };
}

export function read<T>(schema: z.ZodType<T>, environment: Environment): T {
  // A variable that is set to nothing is not set.
  const given = Object.fromEntries(Object.entries(environment).filter(([, value]) => value !== ''));
  const { success, data, error } = schema.safeParse(given);
  if (success) return data;
  const faults = error.issues.map(({ path, message }) => `  ${path.join('.')}: ${message}`);
  throw new ConfigurationFault(`the environment is not good:\n${faults.join('\n')}`);
}

/** A network in CIDR notation. */
export function isNetwork(text: string): boolean {
  const [address = '', bits = '', ...rest] = text.split('/');
  const family = isIP(address);
  return family !== 0 && rest.length === 0 && /^\d{1,3}$/.test(bits) && Number(bits) <= (family === 4 ? 32 : 128);
}
