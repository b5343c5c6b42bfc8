import { parseArgs } from 'node:util';

export type StackOptions = {
  /** How many simulated devices. */
  devices: number;
  dataDir: string;
  /** 0 = any free port. */
  ports: Record<PortName, number>;
};

export const portNames = ['api', 'mqtt', 'files', 'doors', 'ui', 'temporal', 'postgres'] as const;
export type PortName = (typeof portNames)[number];

/** The usual ports, except where a machine often has the same program of its own. */
const usualPorts: Record<PortName, number> = {
  api: 8080,
  mqtt: 8883,
  files: 8443,
  doors: 8444,
  ui: 8233,
  temporal: 7233,
  postgres: 15432,
};

export const flagOf = (port: PortName): string => `--${port}-port`;

const devicesMax = 10_000;
const portMax = 65_535;

/** What was typed is not a way to start the stack; the message says what is. */
export class UsageError extends Error {
  override name = 'UsageError';
}

/** Undefined when help was asked for. */
export function parseStackOptions(args: string[]): StackOptions | undefined {
  const flags = readFlags(args);
  if (flags.help) return undefined;
  const port = (name: PortName) => whole(flagOf(name), flags[`${name}-port`], usualPorts[name], portMax);
  const ports = {
    api: port('api'),
    mqtt: port('mqtt'),
    files: port('files'),
    doors: port('doors'),
    ui: port('ui'),
    temporal: port('temporal'),
    postgres: port('postgres'),
  };
  refuseSharedPorts(ports);
  return {
    devices: whole('--devices', flags.devices, 3, devicesMax),
    dataDir: flags.data ?? '.longhaul',
    ports,
  };
}

function readFlags(args: string[]) {
  const text = { type: 'string' } as const;
  const ports = {
    'api-port': text,
    'mqtt-port': text,
    'files-port': text,
    'doors-port': text,
    'ui-port': text,
    'temporal-port': text,
    'postgres-port': text,
  };
  try {
    const options = { devices: text, data: text, help: { type: 'boolean', short: 'h' }, ...ports } as const;
    return parseArgs({ args, options, strict: true }).values;
  } catch (error) {
    throw new UsageError(error instanceof Error ? error.message : String(error));
  }
}

function whole(flag: string, given: string | undefined, otherwise: number, max: number): number {
  if (given === undefined) return otherwise;
  const number = /^\d{1,6}$/.test(given) ? Number(given) : Number.NaN;
  if (!(number <= max)) throw new UsageError(`${flag} takes a whole number from 0 to ${max}, not "${given}"`);
  return number;
}

function refuseSharedPorts(ports: Record<string, number>): void {
  const taken = new Map<number, string>();
  for (const [name, port] of Object.entries(ports)) {
    const other = taken.get(port);
    if (port !== 0 && other) throw new UsageError(`--${other}-port and --${name}-port are both ${port}`);
    taken.set(port, name);
  }
}

export const usage = `Longhaul on one machine: Postgres, Temporal, gateway, files, doors, lifecycle worker, API and simulated devices.

  npm start -- [options]

  --devices N          simulated devices (3; 0 = none)
  --data DIR           where everything is kept (.longhaul)
  --api-port N         HTTP API (${usualPorts.api})
  --mqtt-port N        devices, MQTT over TLS (${usualPorts.mqtt})
  --files-port N       what devices download, HTTPS (${usualPorts.files})
  --doors-port N       where devices enrol, HTTPS (${usualPorts.doors})
  --ui-port N          Temporal's web page (${usualPorts.ui})
  --temporal-port N    Temporal (${usualPorts.temporal})
  --postgres-port N    Postgres (${usualPorts.postgres})
  --help               this text

A port of 0 is any free one. DIR/stack.json says where everything is, for programs; it is there while the stack is up.
Colours are left out when NO_COLOR is set.`;
