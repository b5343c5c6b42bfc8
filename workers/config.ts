import { z } from 'zod';
import { defaultLimits, type Limits } from '../gateway/limits.ts';

type Environment = Record<string, string | undefined>;

/** A process does not start on a bad environment: every fault is listed at once, by the variable's name. */
export class ConfigurationFault extends Error {
  override name = 'ConfigurationFault';
}

const port = (fallback: number) => z.coerce.number().int().min(0).max(65_535).default(fallback);
const flag = z.enum(['true', 'false']).transform((value) => value === 'true');
const postgresUrl = z.url({ protocol: /^postgres(ql)?$/, error: 'must be a postgres:// address' });
const webUrl = z.url({ protocol: /^https?$/, error: 'must be an http:// or https:// address' });

const database = {
  DATABASE_URL: postgresUrl,
  DATABASE_DIRECT_URL: postgresUrl.optional(),
  DATABASE_PREPARE: flag.default(true),
  DATABASE_POOL_MAX: z.coerce.number().int().min(1).max(1_000).default(10),
};
const common = {
  LOG_LEVEL: z.enum(['fatal', 'error', 'warn', 'info', 'debug', 'trace']).default('info'),
  LONGHAUL_TASK_QUEUE: z.string().min(1).default('longhaul'),
  // `none` where LISTEN is not to be had: everything happens all the same, when a sweep finds it.
  LONGHAUL_WIRE: z.enum(['postgres', 'none']).default('postgres'),
};
const signer = {
  LONGHAUL_KEY_ENCRYPTION_KEY_FILE: z.string().min(1),
  LONGHAUL_CRL_URL: webUrl.optional(),
};

/** `messageBytesMax` is read from `GATEWAY_MESSAGE_BYTES_MAX`, and so on. */
const limitVariable = (name: string) => `GATEWAY_${name.replaceAll(/[A-Z]/g, '_$&').toUpperCase()}`;
const limitNames = Object.keys(defaultLimits);
const limits = Object.fromEntries(
  limitNames.map((name) => [limitVariable(name), z.coerce.number().int().min(1).optional()]),
);

const lifecycleSchema = z.object({ ...database, ...common, ...signer });

const gatewaySchema = z
  .object({
    ...limits,
    ...database,
    ...common,
    GATEWAY_HOST: z.string().min(1).default('0.0.0.0'),
    GATEWAY_PORT: port(8883),
    GATEWAY_EXTRA_PORT: port(0).optional(),
    GATEWAY_METRICS_PORT: port(9464),
    GATEWAY_CERTIFICATE_FILE: z.string().min(1),
    GATEWAY_KEY_FILE: z.string().min(1),
    GATEWAY_TICKET_KEYS_FILE: z.string().min(1).optional(),
    GATEWAY_SWEEP_SECONDS: z.coerce.number().positive().default(15),
    GATEWAY_PRESENCE_DEBOUNCE_SECONDS: z.coerce.number().nonnegative().default(3),
    GATEWAY_BEAT_SECONDS: z.coerce.number().positive().default(5),
    GATEWAY_DEAD_AFTER_SECONDS: z.coerce.number().positive().default(20),
  })
  .refine((env) => env.GATEWAY_DEAD_AFTER_SECONDS >= 3 * env.GATEWAY_BEAT_SECONDS, {
    path: ['GATEWAY_DEAD_AFTER_SECONDS'],
    error: 'must be at least three beats (GATEWAY_BEAT_SECONDS)',
  });

const apiSchema = z.object({
  ...database,
  ...common,
  ...signer,
  API_HOST: z.string().min(1).default('127.0.0.1'),
  API_PORT: port(8080),
  API_REQUESTS_PER_SECOND: z.coerce.number().int().min(1).default(1_000),
  TEMPORAL_UI_URL: webUrl.optional(),
});

const initSchema = z.object({
  ...database,
  ...signer,
  LONGHAUL_ROOT_KEY_FILE: z.string().min(1),
  LONGHAUL_ADMINISTRATOR_KEY_FILE: z.string().min(1).optional(),
  GATEWAY_CERTIFICATE_FILE: z.string().min(1).optional(),
  GATEWAY_KEY_FILE: z.string().min(1).optional(),
  GATEWAY_SERVER_NAMES: z.string().default('localhost,127.0.0.1'),
});

export function lifecycleConfig(environment: Environment) {
  const env = read(lifecycleSchema, environment);
  return { ...databaseOf(env), ...commonOf(env), signer: signerOf(env) };
}

export function gatewayConfig(environment: Environment) {
  const env = read(gatewaySchema, environment);
  const values: Record<string, unknown> = env;
  const given = limitNames.flatMap((name) => {
    const value = values[limitVariable(name)];
    return value === undefined ? [] : [[name, value]];
  });
  return {
    ...databaseOf(env),
    ...commonOf(env),
    host: env.GATEWAY_HOST,
    port: env.GATEWAY_PORT,
    extraPort: env.GATEWAY_EXTRA_PORT,
    metricsPort: env.GATEWAY_METRICS_PORT,
    certificateFile: env.GATEWAY_CERTIFICATE_FILE,
    keyFile: env.GATEWAY_KEY_FILE,
    ticketKeysFile: env.GATEWAY_TICKET_KEYS_FILE,
    sweepEveryMs: env.GATEWAY_SWEEP_SECONDS * 1_000,
    presenceDebounceMs: env.GATEWAY_PRESENCE_DEBOUNCE_SECONDS * 1_000,
    beatEveryMs: env.GATEWAY_BEAT_SECONDS * 1_000,
    deadAfterMs: env.GATEWAY_DEAD_AFTER_SECONDS * 1_000,
    // The names are those of the limits, each with a number that was checked.
    limits: { ...defaultLimits, ...Object.fromEntries(given) } as Limits,
  };
}

export function apiConfig(environment: Environment) {
  const env = read(apiSchema, environment);
  return {
    ...databaseOf(env),
    ...commonOf(env),
    signer: signerOf(env),
    host: env.API_HOST,
    port: env.API_PORT,
    requestsPerSecond: env.API_REQUESTS_PER_SECOND,
    temporalUiUrl: env.TEMPORAL_UI_URL,
  };
}

export function initConfig(environment: Environment) {
  const env = read(initSchema, environment);
  const { GATEWAY_CERTIFICATE_FILE: certificateFile, GATEWAY_KEY_FILE: keyFile } = env;
  return {
    ...databaseOf(env),
    signer: signerOf(env),
    rootKeyFile: env.LONGHAUL_ROOT_KEY_FILE,
    administratorKeyFile: env.LONGHAUL_ADMINISTRATOR_KEY_FILE,
    serverCertificate:
      certificateFile && keyFile
        ? { certificateFile, keyFile, names: env.GATEWAY_SERVER_NAMES.split(',').map((name) => name.trim()) }
        : undefined,
  };
}

function read<T>(schema: z.ZodType<T>, environment: Environment): T {
  // A variable that is set to nothing is not set.
  const given = Object.fromEntries(Object.entries(environment).filter(([, value]) => value !== ''));
  const { success, data, error } = schema.safeParse(given);
  if (success) return data;
  const faults = error.issues.map(({ path, message }) => `  ${path.join('.')}: ${message}`);
  throw new ConfigurationFault(`the environment is not good:\n${faults.join('\n')}`);
}

function databaseOf(env: z.infer<z.ZodObject<typeof database>>) {
  const { DATABASE_URL: url, DATABASE_DIRECT_URL: directUrl = url } = env;
  return { database: { url, max: env.DATABASE_POOL_MAX, prepare: env.DATABASE_PREPARE }, databaseDirectUrl: directUrl };
}

const commonOf = (env: z.infer<z.ZodObject<typeof common>>) => ({
  logLevel: env.LOG_LEVEL,
  taskQueue: env.LONGHAUL_TASK_QUEUE,
  wire: env.LONGHAUL_WIRE,
});

const signerOf = (env: z.infer<z.ZodObject<typeof signer>>) => ({
  keyEncryptionKeyFile: env.LONGHAUL_KEY_ENCRYPTION_KEY_FILE,
  crlUrl: env.LONGHAUL_CRL_URL,
});
