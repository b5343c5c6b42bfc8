/** How an execution ends when it does not succeed; a device that reverts counts as FAILED, a silent one as TIMED_OUT. */
export type FailureKind = 'FAILED' | 'TIMED_OUT' | 'REJECTED';

/** When enough of a wave is updated for the next to begin. */
export type Gate = {
  /** Share of the wave's devices, without those that it does not fit. */
  succeededPercent: number;
  /** How long they must then stay connected and keep reporting the version. */
  soakSeconds: number;
  /** Waits for an operator besides. */
  manual: boolean;
  /** What follows when the share cannot be reached any more. */
  otherwise: Consequence;
};

export type Consequence = 'pause' | 'stop' | 'undo';

/** When it goes wrong: at this many devices, or at this share of those judged once there are enough of them. */
export type Limit = {
  kind: FailureKind | 'ANY';
  count?: number | undefined;
  percent?: number | undefined;
  /** Devices judged before a percentage means anything. */
  judgedMin: number;
  then: Consequence;
};

/** Times of the day at which devices may be told; `to` may lie on the next day. */
export type Window = {
  /** ISO weekdays on which it begins, 1 for Monday. */
  days: number[];
  /** `22:00` */
  from: string;
  to: string;
};

export type Windows = {
  /** IANA name, or the device's attribute that holds one (with a default for those without). */
  zone: string | { attribute: string; default: string };
  open: Window[];
};

/** Everything that a rollout can be told, as the API checked it (`api/rollout-plans.ts`). */
export type RolloutPlan = {
  targets: {
    devices?: string[] | undefined;
    groups?: string[] | undefined;
    filter?: string | undefined;
    /** Devices that come to match later join the last open wave. */
    continuous: boolean;
  };
  /** The last one takes all that are left over. */
  waves: {
    count?: number | undefined;
    percent?: number | undefined;
    filter?: string | undefined;
    gate?: Partial<Gate> | undefined;
  }[];
  gate: Gate;
  limits: Limit[];
  pace: {
    /** Devices told and not yet judged, at most. */
    inFlightMax: number;
    perMinute?: number | undefined;
    /** `perMinute` grows by this factor after every so many successes, up to `perMinuteMax`. */
    growth?: { factor: number; afterSuccesses: number; perMinuteMax: number } | undefined;
  };
  timers: {
    startWithinSeconds: number;
    endWithinSeconds: number;
    /** From a report of success until the version must be reported. */
    verifyWithinSeconds: number;
    rolloutSeconds: number;
  };
  retries: { max: number; backoffSeconds: number; kinds: FailureKind[] };
  windows?: Windows | undefined;
  priority: number;
  /** Whom a stop reaches: those not yet started, or those in progress too. */
  stopping: 'queued' | 'all';
  approval: boolean;
  /** When it begins: `now` is when it is ready, `manual` when an operator says so, else at a time (RFC 3339). */
  start: string;
};

/** Whether the runtime knows the IANA zone. An offset is none: it does not know summer. */
export function isZone(name: string): boolean {
  try {
    const { timeZone } = new Intl.DateTimeFormat('en', { timeZone: name }).resolvedOptions();
    return !/^[+-]/.test(timeZone);
  } catch {
    return false;
  }
}
