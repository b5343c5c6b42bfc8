import { z } from 'zod';
import { defaultLimits, type Limits } from '../gateway/limits.ts';
import { artifacts, database, databaseOf, flag, hasOneStore, isNetwork, logging, oneStore, port } from './variables.ts';
import { read, storeOf, webUrl, type Environment } from './variables.ts';

const common = {
  ...logging,
  LONGHAUL_TASK_QUEUE: z.string().min(1).default('longhaul'),
  // `none` where LISTEN is not to be had: everything happens all the same, when a sweep finds it.
  LONGHAUL_WIRE: z.enum(['postgres', 'none']).default('postgres'),
};
const signer = {
  LONGHAUL_KEY_ENCRYPTION_KEY_FILE: z.string().min(1),
  LONGHAUL_CRL_URL: webUrl.optional(),
  // Where the next issuing key is made; those that are there are where their rows say.
  LONGHAUL_SIGNER: z.enum(['database', 'pkcs11']).default('database'),
  LONGHAUL_PKCS11_MODULE: z.string().min(1).optional(),
  LONGHAUL_PKCS11_TOKEN: z.string().min(1).max(32).default('longhaul'),
  LONGHAUL_PKCS11_PIN_FILE: z.string().min(1).default('pkcs11-pin'),
};

/** `messageBytesMax` is read from `GATEWAY_MESSAGE_BYTES_MAX`, and so on. */
const limitVariable = (name: string) => `GATEWAY_${name.replaceAll(/[A-Z]/g, '_$&').toUpperCase()}`;
const limitNames = Object.keys(defaultLimits);
const limits = Object.fromEntries(
  limitNames.map((name) => [limitVariable(name), z.coerce.number().int().min(1).optional()]),
);

const network = z.string().refine(isNetwork, 'must be networks such as 10.1.0.0/16, with commas between them');
const lifecycleSchema = z.object({
  ...database,
  ...common,
  ...signer,
  // Where templates' hooks may be although it is not public; and whether they may be called without TLS.
  LONGHAUL_HOOK_NETWORKS: z
    .string()
    .default('')
    .transform((text) => text.split(',').flatMap((part) => part.trim() || []))
    .pipe(z.array(network)),
  LONGHAUL_HOOK_PLAIN: flag.default(false),
  LONGHAUL_WORKFLOW_BUNDLE_FILE: z.string().min(1).optional(),
});

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
    LONGHAUL_FILES_URL: webUrl,
    LONGHAUL_ADDRESS_KEY_FILE: z.string().min(1),
    LONGHAUL_ADDRESS_SECONDS: z.coerce.number().int().min(10).max(604_800).default(3_600),
    LONGHAUL_ORDER_KEYS_FILE: z.string().min(1),
    LONGHAUL_ORDER_SECONDS: z.coerce.number().int().min(60).max(86_400).default(3_600),
  })
  .refine((env) => env.GATEWAY_DEAD_AFTER_SECONDS >= 3 * env.GATEWAY_BEAT_SECONDS, {
    path: ['GATEWAY_DEAD_AFTER_SECONDS'],
    error: 'must be at least three beats (GATEWAY_BEAT_SECONDS)',
  });

const apiSchema = z
  .object({
    ...database,
    ...common,
    ...signer,
    ...artifacts,
    API_HOST: z.string().min(1).default('127.0.0.1'),
    API_PORT: port(8080),
    API_REQUESTS_PER_SECOND: z.coerce.number().int().min(1).default(1_000),
    API_ARTIFACT_BYTES_MAX: z.coerce
      .number()
      .int()
      .min(1)
      .default(4 * 1024 ** 3),
    TEMPORAL_UI_URL: webUrl.optional(),
  })
  .refine(hasOneStore, oneStore);

const filesSchema = z
  .object({
    ...database,
    ...logging,
    ...artifacts,
    FILES_HOST: z.string().min(1).optional(),
    FILES_PORT: port(8443),
    FILES_METRICS_PORT: port(9465),
    FILES_CERTIFICATE_FILE: z.string().min(1).optional(),
    FILES_KEY_FILE: z.string().min(1).optional(),
    FILES_DOWNLOADS_MAX: z.coerce.number().int().min(1).default(2_000),
    FILES_IDLE_SECONDS: z.coerce.number().positive().default(60),
    FILES_DRAIN_SECONDS: z.coerce.number().nonnegative().default(30),
    FILES_REVIEW_SECONDS: z.coerce.number().positive().max(60).default(5),
    LONGHAUL_ADDRESS_KEY_FILE: z.string().min(1),
  })
  .refine(hasOneStore, oneStore)
  .refine((env) => (env.FILES_CERTIFICATE_FILE === undefined) === (env.FILES_KEY_FILE === undefined), {
    path: ['FILES_KEY_FILE'],
    error: 'goes with FILES_CERTIFICATE_FILE: both or neither',
    when: () => true,
  });

const doorsSchema = z.object({
  ...database,
  ...common,
  DOORS_HOST: z.string().min(1).default('0.0.0.0'),
  DOORS_PORT: port(8444),
  DOORS_METRICS_PORT: port(9466),
  DOORS_CERTIFICATE_FILE: z.string().min(1),
  DOORS_KEY_FILE: z.string().min(1),
  DOORS_CONNECTIONS_MAX: z.coerce.number().int().min(1).default(5_000),
  DOORS_REQUESTS_PER_SECOND_PER_ADDRESS: z.coerce.number().int().min(1).default(100),
});

const initSchema = z.object({
  ...database,
  ...signer,
  LONGHAUL_ROOT_KEY_FILE: z.string().min(1),
  LONGHAUL_ADMINISTRATOR_KEY_FILE: z.string().min(1).optional(),
  GATEWAY_CERTIFICATE_FILE: z.string().min(1).optional(),
  GATEWAY_KEY_FILE: z.string().min(1).optional(),
  GATEWAY_SERVER_NAMES: z.string().default('localhost,127.0.0.1'),
  LONGHAUL_ADDRESS_KEY_FILE: z.string().min(1).optional(),
  LONGHAUL_ORDER_KEYS_FILE: z.string().min(1).optional(),
});

export function lifecycleConfig(environment: Environment) {
  const env = read(lifecycleSchema, environment);
  const hooks = { permittedNetworks: env.LONGHAUL_HOOK_NETWORKS, plain: env.LONGHAUL_HOOK_PLAIN };
  return {
    ...databaseOf(env),
    ...commonOf(env),
    signer: signerOf(env),
    hooks,
    bundleFile: env.LONGHAUL_WORKFLOW_BUNDLE_FILE,
  };
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
    addresses: {
      base: env.LONGHAUL_FILES_URL,
      keyFile: env.LONGHAUL_ADDRESS_KEY_FILE,
      lifetimeSeconds: env.LONGHAUL_ADDRESS_SECONDS,
    },
    orders: { keysFile: env.LONGHAUL_ORDER_KEYS_FILE, lifetimeSeconds: env.LONGHAUL_ORDER_SECONDS },
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
    artifactBytesMax: env.API_ARTIFACT_BYTES_MAX,
    store: storeOf(env),
    temporalUiUrl: env.TEMPORAL_UI_URL,
  };
}

export function filesConfig(environment: Environment) {
  const env = read(filesSchema, environment);
  const { FILES_CERTIFICATE_FILE: certificateFile, FILES_KEY_FILE: keyFile } = env;
  const tls = certificateFile && keyFile ? { certificateFile, keyFile } : undefined;
  return {
    ...databaseOf(env),
    logLevel: env.LOG_LEVEL,
    store: storeOf(env),
    // Plain HTTP is for a proxy, which is on this machine if nothing else is said: an address in clear is anybody's.
    host: env.FILES_HOST ?? (tls ? '0.0.0.0' : '127.0.0.1'),
    port: env.FILES_PORT,
    metricsPort: env.FILES_METRICS_PORT,
    tls,
    downloadsMax: env.FILES_DOWNLOADS_MAX,
    idleMs: env.FILES_IDLE_SECONDS * 1_000,
    drainMs: env.FILES_DRAIN_SECONDS * 1_000,
    reviewEveryMs: env.FILES_REVIEW_SECONDS * 1_000,
    addressKeyFile: env.LONGHAUL_ADDRESS_KEY_FILE,
  };
}

export function doorsConfig(environment: Environment) {
  const env = read(doorsSchema, environment);
  return {
    ...databaseOf(env),
    ...commonOf(env),
    host: env.DOORS_HOST,
    port: env.DOORS_PORT,
    metricsPort: env.DOORS_METRICS_PORT,
    certificateFile: env.DOORS_CERTIFICATE_FILE,
    keyFile: env.DOORS_KEY_FILE,
    connectionsMax: env.DOORS_CONNECTIONS_MAX,
    requestsPerSecondPerAddress: env.DOORS_REQUESTS_PER_SECOND_PER_ADDRESS,
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
    addressKeyFile: env.LONGHAUL_ADDRESS_KEY_FILE,
    orderKeysFile: env.LONGHAUL_ORDER_KEYS_FILE,
    serverCertificate:
      certificateFile && keyFile
        ? { certificateFile, keyFile, names: env.GATEWAY_SERVER_NAMES.split(',').map((name) => name.trim()) }
        : undefined,
  };
}

const commonOf = (env: z.infer<z.ZodObject<typeof common>>) => ({
  logLevel: env.LOG_LEVEL,
  taskQueue: env.LONGHAUL_TASK_QUEUE,
  wire: env.LONGHAUL_WIRE,
});

const signerOf = (env: z.infer<z.ZodObject<typeof signer>>) => ({
  keyEncryptionKeyFile: env.LONGHAUL_KEY_ENCRYPTION_KEY_FILE,
  crlUrl: env.LONGHAUL_CRL_URL,
  signer: env.LONGHAUL_SIGNER,
  pkcs11: env.LONGHAUL_PKCS11_MODULE
    ? { module: env.LONGHAUL_PKCS11_MODULE, token: env.LONGHAUL_PKCS11_TOKEN, pinFile: env.LONGHAUL_PKCS11_PIN_FILE }
    : undefined,
});
