import type { EventEmitter } from 'node:events';
import { setTimeout as pause } from 'node:timers/promises';
import { commandsOf, type Commands } from './device-commands.ts';
import { ConnectionRefused, dial, type Connection, type ProtocolVersion } from './device-connection.ts';
import { enrol } from './device-enrolment.ts';
import type { DeviceFolder } from './device-folder.ts';
import { fetchOver } from './device-http.ts';
import { jobsOf, type Jobs } from './device-jobs.ts';
import { openJournal } from './device-journal.ts';
import { readPublicKeys } from './device-jws.ts';
import type { PowerSwitch } from './device-power.ts';
import { boot } from './device-slots.ts';
import type { Behaviour, DeviceEvents, DeviceOptions } from './device.ts';

export type LifeDeps = {
  options: DeviceOptions & { protocolVersion: ProtocolVersion; sessionSeconds: number; backOffMs: number };
  folder: DeviceFolder;
  behaviour: Behaviour;
  events: EventEmitter<DeviceEvents>;
  power: PowerSwitch;
  /** Waits until it is in reach of the network, and gives what aborts when it no longer is. */
  inReach: (signal: AbortSignal) => Promise<AbortSignal>;
  /** A connection with its own certificate stands. Resolves when there is no more to be done with it. */
  connected: (client: Connection) => Promise<void>;
};

type Agents = { commands: Commands; jobs?: Jobs; working?: Promise<void> };

const backOffMaxMs = 60_000;

/** One life of a device, from power-on to power-off. What it knows at first is what its disk says. */
export async function live({ options, folder, behaviour, events, power, inReach, connected }: LifeDeps): Promise<void> {
  const { protocolVersion, sessionSeconds, backOffMs, software } = options;
  const keys = readPublicKeys(software?.releaseKeys ?? []);
  const journal = openJournal(folder);
  const ca = () => folder.trustBundle()?.certificatesPem ?? options.mqtt.ca;
  const broker = () => ({ ...options.mqtt, ca: ca() });
  const slots = software && (await boot({ folder: options.folder, factory: software, keys, power }));
  if (slots) events.emit('booted', slots.running.version);
  folder.successor.clearReplaced();
  let agents: Agents | undefined;
  let tried = false;
  for (let failures = 0; !power.signal.aborted; failures += 1) {
    const signal = await inReach(power.signal).catch(() => power.signal);
    let client: Connection | undefined;
    try {
      const device = folder.state().name ?? (await enrolNow(signal));
      agents ??= agentsOf(device);
      client = await dialAs(device, agents, signal);
      failures = 0;
      const { commands, jobs } = agents;
      await Promise.all([commands.serve(client), jobs?.serve(client), connected(client)]);
    } catch (error) {
      if (!signal.aborted && error instanceof Error) events.emit('trouble', error);
      if (forgetsUnused(error)) power.fail();
      client?.end(true);
    }
    const waitMs = Math.min(backOffMs * 2 ** failures, backOffMaxMs) * (0.5 + Math.random());
    if (!signal.aborted) await pause(waitMs, undefined, { signal }).catch(() => {});
  }
  await agents?.working;

  function agentsOf(device: string): Agents {
    const commands = commandsOf({ device, journal, behaviour, events, signal: power.signal });
    if (!software || !slots) return { commands };
    const fetch = fetchOver({ ca, inReach: () => inReach(power.signal) });
    const own = { device, folder: options.folder, software, keys, slots };
    const orderKeys = readPublicKeys(software.orderKeys);
    const jobs = jobsOf({ ...own, identity: folder, orderKeys, fetch, behaviour, events, power, backOffMs });
    return { commands, jobs, working: jobs.work() };
  }

  async function enrolNow(signal: AbortSignal): Promise<string> {
    const name = await enrol({ ...options, broker: broker(), folder, signal });
    events.emit('enrolled', name);
    return name;
  }

  /** A new certificate is tried first; while that does not come about, every other time the one that has proved good. */
  async function dialAs(device: string, { commands, jobs }: Agents, signal: AbortSignal): Promise<Connection> {
    const trial = tried ? undefined : folder.successor.credentials();
    tried = trial !== undefined;
    const own = trial ?? { certificate: folder.certificate() ?? '', privateKey: folder.privateKey() };
    const receive = (topic: string, payload: Buffer) => {
      commands.receive(topic, payload);
      jobs?.receive(topic, payload);
    };
    const acknowledges = () => Math.random() >= behaviour.lossy;
    const session = { clientId: device, protocolVersion, sessionSeconds, receive, acknowledges };
    const dialled = await dial(broker(), { ...own, ...session }, signal).catch((error: unknown) => {
      if (trial && error instanceof ConnectionRefused && error.notAuthorized) folder.successor.drop();
      throw error;
    });
    tried = false;
    if (trial) takeOver();
    if (!folder.state().activated) folder.keepState({ ...folder.state(), activated: true });
    return dialled;
  }

  /** It has connected, so the fleet knows it: from now on the device lives by it, and what it replaces may go. */
  function takeOver(): void {
    power.reach('certificate-proven');
    folder.successor.succeed();
    power.reach('certificate-changed');
    folder.successor.clearReplaced();
    events.emit('rotated');
  }

  /** A certificate that was never used in its hour is revoked: a device that comes late enrols again. */
  function forgetsUnused(error: unknown): boolean {
    const { name, activated } = folder.state();
    const unused = error instanceof ConnectionRefused && error.notAuthorized && name !== undefined && !activated;
    if (unused) folder.forgetIdentity();
    return unused;
  }
}
