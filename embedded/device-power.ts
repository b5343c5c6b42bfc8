import type { EventEmitter } from 'node:events';
import type { DeviceEvents } from './device.ts';

/** Where a simulated device's power can fail, in the order in which a job passes them. */
export const powerSteps = [
  // the job is known, and then started; the disk does not know it yet
  'offered',
  'started',
  'kept',
  // some bytes are there, all are there and right, and under their name
  'downloading',
  'checked',
  'downloaded',
  // the other slot's content beside it, the old content gone, the new one in its place
  'written',
  'erased',
  'installed',
  // the next power-on tries it; the boot loader has counted the try; it runs, and is not yet checked
  'armed',
  'counted',
  'up',
  // a bad image: it is given up, the old one runs again, the bad one is gone
  'given-up',
  'fallen-back',
  'cleared',
  // a good one: it stays
  'confirmed',
  'version-told',
  // a document with steps
  'step-done',
  // another certificate: its key is kept, it was issued, it is kept, it has connected, it is the one to live by
  'key-kept',
  'certificate-issued',
  'certificate-kept',
  'certificate-proven',
  'certificate-changed',
  // other roots to trust
  'trust-kept',
  // how the job went: kept, told, and no longer needed
  'judged',
  'told',
  'forgotten',
] as const;

export type PowerStep = (typeof powerSteps)[number];

/** From one power-on to the next. */
export type Power = {
  /** Aborts when it goes off. */
  signal: AbortSignal;
  /** Throws when the power is gone, be it that it fails here. */
  reach(step: PowerStep): void;
  /** Goes off in good order, and on again. Never resolves. */
  reboot(): Promise<never>;
};

export type PowerSwitch = Power & {
  /** Takes the power away: whatever is in memory and on sockets is gone, the disk stays as it is. */
  fail(): void;
};

export type PowerDeps = {
  /** Aborts when somebody switches the device off for good. */
  powered: AbortSignal;
  events: EventEmitter<DeviceEvents>;
  /** Whether it is to fail here; asked at each step. */
  failsAt: (step: PowerStep) => boolean;
  /** Leaves the fleet politely. */
  goodbye: () => Promise<void>;
};

/** One power-on. */
export function switchOn({ powered, events, failsAt, goodbye }: PowerDeps): PowerSwitch {
  const off = new AbortController();
  const signal = AbortSignal.any([powered, off.signal]);
  const gone = (): never => {
    throw signal.reason;
  };
  return {
    signal,
    reach(step) {
      signal.throwIfAborted();
      if (!failsAt(step)) return;
      events.emit('powerCut', step);
      off.abort();
      gone();
    },
    async reboot() {
      signal.throwIfAborted();
      events.emit('rebooting');
      await goodbye();
      off.abort();
      return gone();
    },
    fail: () => off.abort(),
  };
}
