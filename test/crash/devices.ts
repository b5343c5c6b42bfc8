import { randomBytes } from 'node:crypto';
import { join } from 'node:path';
import { inject } from 'vitest';
import type { Broker } from '../../embedded/device-connection.ts';
import { createDevice, type Device } from '../../embedded/device.ts';
import { openDeviceFolder } from '../../embedded/device-folder.ts';
import type { Report } from '../../embedded/device-journal.ts';
import { enrol } from '../../embedded/device-enrolment.ts';
import { freshParameters, makeClaim, type Claim } from '../clients/fleet.ts';
import { eventually } from '../support/eventually.ts';
import type { System } from '../support/system.ts';

/** What one device did for one execution, by its own account. */
export type Work = { device: string; times: number; beganAt: number; report?: Report['status']; answeredMs?: number };

export type Fleet = AsyncDisposable & {
  claim: Claim;
  devices: Device[];
  /** By execution id, in the order in which they began. */
  work: Map<string, Work>;
  /** So many more devices, which start to enrol. */
  add(count: number): Device[];
  names(): string[];
};

/** Simulated devices of one claim, and everything that they have carried out. */
export async function createFleet(system: System): Promise<Fleet> {
  const claim = await makeClaim(system);
  const folder = join(inject('folder'), `devices-${randomBytes(4).toString('hex')}`);
  const devices: Device[] = [];
  const work = new Map<string, Work>();

  function make(): Device {
    const options = { mqtt: system.mqtt, claim, template: claim.template, parameters: freshParameters() };
    const device = createDevice({ ...options, folder: join(folder, String(devices.length)), backOffMs: 100 });
    device.events.on('received', (id) => {
      const before = work.get(id);
      work.set(id, { device: device.name() ?? '', times: (before?.times ?? 0) + 1, beganAt: performance.now() });
    });
    device.events.on('reported', (id, report) => {
      const done = work.get(id);
      if (!done || report === 'IN_PROGRESS') return;
      Object.assign(done, { report, answeredMs: performance.now() - done.beganAt });
    });
    devices.push(device);
    return device;
  }

  return {
    claim,
    devices,
    work,
    add(count) {
      const added = Array.from({ length: count }, make);
      for (const device of added) device.start();
      return added;
    },
    names: () => devices.flatMap((device) => device.name() ?? []),
    async [Symbol.asyncDispose]() {
      await Promise.all(devices.map((device) => device.stop()));
    },
  };
}

export type Enrolled = { name: string; certificate: string; privateKey: string };

/** A device that has enrolled, and has not connected with what it got. */
export async function enrolOnly(mqtt: Broker, claim: Claim): Promise<Enrolled> {
  const folder = openDeviceFolder(join(inject('folder'), `device-${randomBytes(6).toString('hex')}`));
  const { signal } = new AbortController();
  const asked = { broker: mqtt, folder, claim, template: claim.template, parameters: freshParameters(), signal };
  const name = await eventually(() => enrol({ ...asked, protocolVersion: 5 }), { withinMs: 60_000 });
  return { name, certificate: folder.certificate() ?? '', privateKey: folder.privateKey() };
}
