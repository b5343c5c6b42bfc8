import { EventEmitter } from 'node:events';
import { setTimeout as pause } from 'node:timers/promises';
import { attempt, attemptsOn, type Attempt, type Intent } from './device-attempts.ts';
import { commandsOf, type Commands } from './device-commands.ts';
import {
  ConnectionRefused,
  dial,
  type Broker,
  type Connection,
  type Credentials,
  type ProtocolVersion,
} from './device-connection.ts';
import { enrol } from './device-enrolment.ts';
import { openDeviceFolder } from './device-folder.ts';
import { openJournal, type Report } from './device-journal.ts';

export type Behaviour = {
  /** Milliseconds that each piece of work takes longer. */
  slowMs: number;
  /** Between 0 and 1: how often an acknowledgement (and with it the connection) or a report gets lost. */
  lossy: number;
  /** Another device, whose topics it tries once it is connected. */
  hostileTo?: string;
};

export type DeviceOptions = {
  /** Its disk: key, certificate, name and journal; made when it is not there. */
  folder: string;
  mqtt: Broker;
  claim: Credentials;
  template: string;
  parameters: Record<string, string>;
  protocolVersion?: ProtocolVersion;
  /** Seconds that the server is asked to keep its session; 0 for none. */
  sessionSeconds?: number;
  behaviour?: Partial<Behaviour>;
  /** Milliseconds before it tries again after a connection; doubled while none succeeds, with jitter. */
  backOffMs?: number;
};

export type DeviceEvents = {
  enrolled: [name: string];
  /** Connected with its own certificate, and subscribed. */
  connected: [];
  disconnected: [];
  received: [executionId: string];
  /** The server has taken this report. */
  reported: [executionId: string, status: Report['status']];
  /** The server has refused this report, for good. */
  refused: [executionId: string, error: string];
  attempted: [Attempt];
  /** Something failed that it will try again. */
  trouble: [Error];
};

export type Device = AsyncDisposable & {
  events: EventEmitter<DeviceEvents>;
  /** The name it was given; undefined until it has enrolled. */
  name(): string | undefined;
  connected(): boolean;
  /** Lives from now on; returns at once. */
  start(): void;
  /** Says goodbye and drops its work. `start` then goes on from its disk, as after a restart. */
  stop(): Promise<void>;
  /** Out of reach, without a goodbye, until `goOnline`. */
  goOffline(): void;
  goOnline(): void;
  behave(change: Partial<Behaviour>): void;
};

const backOffMaxMs = 60_000;
const foreverMs = 2 ** 31 - 1;
const goodbyeWithinMs = 1_000;

/**
 * A simulated device, and an honest one: it has a disk of its own, knows the public contract and nothing else, and comes
 * to the fleet over TLS and MQTT. It enrols once, reconnects for ever, and carries each command out once.
 */
export function createDevice(options: DeviceOptions): Device {
  const { mqtt: broker, protocolVersion = 5, sessionSeconds = 3_600, backOffMs = 500 } = options;
  const events = new EventEmitter<DeviceEvents>();
  const folder = openDeviceFolder(options.folder);
  const behaviour: Behaviour = { slowMs: 0, lossy: 0 };
  const acknowledges = () => Math.random() >= behaviour.lossy;
  let intents: Intent[] = [];
  let online = true;
  let reach = new AbortController();
  let power = new AbortController();
  let life: Promise<void> | undefined;
  let client: Connection | undefined;

  behave(options.behaviour ?? {});

  async function live(powered: AbortSignal): Promise<void> {
    const journal = openJournal(folder);
    let commands: Commands | undefined;
    let failures = 0;
    while (!powered.aborted) {
      const signal = AbortSignal.any([powered, reach.signal]);
      try {
        if (!online) await pause(foreverMs, undefined, { signal });
        const device = folder.state().name ?? (await enrolNow(signal));
        commands ??= commandsOf({ device, journal, behaviour, events, signal: powered });
        client = await dialAs(device, commands, signal);
        failures = 0;
        await Promise.all([commands.serve(client), tryIntents(client)]);
      } catch (error) {
        if (!signal.aborted && error instanceof Error) events.emit('trouble', error);
        if (forgetsUnused(error)) commands = undefined;
      }
      const waitMs = Math.min(backOffMs * 2 ** failures++, backOffMaxMs) * (0.5 + Math.random());
      if (!signal.aborted) await pause(waitMs, undefined, { signal }).catch(() => {});
    }
  }

  async function enrolNow(signal: AbortSignal): Promise<string> {
    const name = await enrol({ ...options, broker, folder, protocolVersion, signal });
    events.emit('enrolled', name);
    return name;
  }

  async function dialAs(device: string, commands: Commands, signal: AbortSignal): Promise<Connection> {
    const own = { certificate: folder.certificate() ?? '', privateKey: folder.privateKey };
    const session = { clientId: device, protocolVersion, sessionSeconds, receive: commands.receive };
    const dialled = await dial(broker, { ...own, ...session, acknowledges }, signal);
    if (!folder.state().activated) folder.keepState({ ...folder.state(), activated: true });
    return dialled;
  }

  /** A certificate that was never used in its hour is revoked: a device that comes late enrols again. */
  function forgetsUnused(error: unknown): boolean {
    const { name, activated } = folder.state();
    const unused = error instanceof ConnectionRefused && error.notAuthorized && name !== undefined && !activated;
    if (unused) folder.forgetIdentity();
    return unused;
  }

  async function tryIntents(dialled: Connection): Promise<void> {
    while (dialled.connected) {
      const intent = intents.shift();
      if (!intent) return;
      events.emit('attempted', await attempt(dialled, intent));
    }
  }

  function behave(change: Partial<Behaviour>): void {
    Object.assign(behaviour, change);
    if (change.hostileTo === undefined) return;
    intents = attemptsOn(change.hostileTo);
    if (client) void tryIntents(client);
  }

  function reachable(now: boolean): void {
    online = now;
    const before = reach;
    reach = new AbortController();
    before.abort();
  }

  async function stop(): Promise<void> {
    if (client?.connected) await Promise.race([client.endAsync(), pause(goodbyeWithinMs)]);
    power.abort();
    await life;
    life = undefined;
  }

  return {
    events,
    name: () => folder.state().name,
    connected: () => client?.connected ?? false,
    start() {
      if (life) return;
      power = new AbortController();
      life = live(power.signal);
    },
    stop,
    goOffline: () => reachable(false),
    goOnline: () => reachable(true),
    behave,
    [Symbol.asyncDispose]: stop,
  };
}
