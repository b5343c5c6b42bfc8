import { EventEmitter, once } from 'node:events';
import { setTimeout as pause } from 'node:timers/promises';
import { attempt, attemptsOn, type Attempt, type Intent } from './device-attempts.ts';
import type { Broker, Connection, Credentials, ProtocolVersion } from './device-connection.ts';
import { openDeviceFolder } from './device-folder.ts';
import type { Report } from './device-journal.ts';
import { live } from './device-life.ts';
import { switchOn, type PowerStep, type PowerSwitch } from './device-power.ts';

export type Behaviour = {
  /** Milliseconds that each piece of work takes longer. */
  slowMs: number;
  /** Between 0 and 1: how often an acknowledgement (and with it the connection) or a report gets lost. */
  lossy: number;
  /** Another device, whose topics it tries once it is connected. */
  hostileTo?: string;
  /**
   * How it takes its jobs. `bad`: a new image fails its health check, and the device goes back. `silent`: never answers.
   * `lying`: says that it has updated, and has not. `flapping`: goes back to the old image when all was well. `refusing`:
   * takes none.
   */
  updates: 'good' | 'bad' | 'silent' | 'lying' | 'flapping' | 'refusing';
  /** Milliseconds for which a flapping device stays with the new image. */
  flapsAfterMs: number;
  /** Milliseconds by which its clock is ahead; below 0 when it is behind. */
  clockAheadMs: number;
};

/** What a device left the factory with. */
export type Software = {
  product: string;
  hardware: string;
  version: string;
  /** Manifests with a lower one are refused; 0. */
  securityCounter?: number;
  /** Public keys, PEM: by whose signature it knows a manifest. */
  releaseKeys: string[];
  /** Public keys, PEM: by whose signature it knows what it is to install now. */
  orderKeys: string[];
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
  /** Milliseconds before it tries again after a connection; doubled while none succeeds, with jitter. A reboot takes as long. */
  backOffMs?: number;
  /** What it runs, and updates by jobs; without it takes commands only. */
  software?: Software;
};

export type DeviceEvents = {
  enrolled: [name: string];
  /** It lives by another certificate. */
  rotated: [];
  /** Connected with its own certificate, and subscribed. */
  connected: [];
  disconnected: [];
  received: [executionId: string];
  /** The server has taken this report. */
  reported: [executionId: string, status: Report['status']];
  /** The server has refused this report, for good. */
  refused: [executionId: string, error: string];
  attempted: [Attempt];
  /** Its power is on, and this version runs; only with software. */
  booted: [version: string];
  rebooting: [];
  /** Its power has failed. */
  powerCut: [at?: PowerStep];
  /** The server has taken this about a job. */
  job: [jobId: string, status: string, phase: string | undefined];
  /** The server has refused what the device said about a job, for good. */
  jobRefused: [jobId: string, code: string];
  /** Something failed that it will try again. */
  trouble: [Error];
};

export type Device = AsyncDisposable & {
  events: EventEmitter<DeviceEvents>;
  /** The name it was given; undefined until it has enrolled. */
  name(): string | undefined;
  /** The version that has booted. */
  version(): string | undefined;
  connected(): boolean;
  /** Lives from now on; returns at once. */
  start(): void;
  /** Says goodbye and drops its work. `start` then goes on from its disk, as after a restart. */
  stop(): Promise<void>;
  /** Out of reach, without a goodbye, until `goOnline`. */
  goOffline(): void;
  goOnline(): void;
  /** Takes its power away, now or when it comes to this step. It comes back by itself, with nothing but its disk. */
  cutPower(at?: PowerStep): void;
  behave(change: Partial<Behaviour>): void;
};

const goodbyeWithinMs = 1_000;

/**
 * A simulated device, and an honest one: it has a disk of its own, knows the public contract and nothing else, and comes
 * to the fleet over TLS and MQTT. It enrols once, reconnects for ever, carries each command out once, and updates itself
 * by what a release key has signed and an order key told it to install now.
 */
export function createDevice(given: DeviceOptions): Device {
  const options = { protocolVersion: 5 as const, sessionSeconds: 3_600, backOffMs: 500, ...given };
  const events = new EventEmitter<DeviceEvents>();
  const folder = openDeviceFolder(options.folder);
  const behaviour: Behaviour = { slowMs: 0, lossy: 0, updates: 'good', flapsAfterMs: 1_000, clockAheadMs: 0 };
  let intents: Intent[] = [];
  let online = true;
  let reach = new AbortController();
  let mains = new AbortController();
  let power: PowerSwitch | undefined;
  let cutAt: PowerStep | undefined;
  let lives: Promise<void> | undefined;
  let client: Connection | undefined;
  let version: string | undefined;

  behave(options.behaviour ?? {});
  events.on('booted', (booted) => (version = booted));

  async function liveOn(powered: AbortSignal): Promise<void> {
    while (!powered.aborted) {
      power = switchOn({ powered, events, failsAt, goodbye });
      await live({ options, folder, behaviour, events, power, inReach, connected }).catch((error: unknown) => {
        if (!power?.signal.aborted && error instanceof Error) events.emit('trouble', error);
      });
      power.fail();
      await pause(options.backOffMs, undefined, { signal: powered }).catch(() => {});
    }
  }

  async function connected(dialled: Connection): Promise<void> {
    client = dialled;
    await tryIntents(dialled);
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

  async function inReach(signal: AbortSignal): Promise<AbortSignal> {
    while (!online) await once(reach.signal, 'abort', { signal });
    return AbortSignal.any([signal, reach.signal]);
  }

  function reachable(now: boolean): void {
    online = now;
    const before = reach;
    reach = new AbortController();
    before.abort();
  }

  function failsAt(step: PowerStep): boolean {
    const fails = step === cutAt;
    if (fails) cutAt = undefined;
    return fails;
  }

  function cutPower(at?: PowerStep): void {
    cutAt = at;
    if (at !== undefined) return;
    events.emit('powerCut');
    power?.fail();
  }

  async function goodbye(): Promise<void> {
    if (client?.connected) await Promise.race([client.endAsync(), pause(goodbyeWithinMs)]);
  }

  async function stop(): Promise<void> {
    await goodbye();
    mains.abort();
    await lives;
    lives = undefined;
  }

  return {
    events,
    name: () => folder.state().name,
    version: () => version,
    connected: () => client?.connected ?? false,
    start() {
      if (lives) return;
      mains = new AbortController();
      lives = liveOn(mains.signal);
    },
    stop,
    goOffline: () => reachable(false),
    goOnline: () => reachable(true),
    cutPower,
    behave,
    [Symbol.asyncDispose]: stop,
  };
}
