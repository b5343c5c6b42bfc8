export type Clock = {
  /** What the database said, just now, that its time is. */
  heard(databaseTime: Date): void;
  /**
   * The time that is past by this machine's clock and by the database's, whichever of them is behind. Nothing is ended by one
   * clock alone: one that jumps a year ahead would end every connection of the fleet at once.
   */
  agreedMs(): number;
  /** How far this machine's clock is ahead of the database's. */
  aheadMs(): number;
};

/** The database's time is carried on by the monotonic clock, which no change of the machine's time moves. */
export function createClock({ wallMs = Date.now, monotonicMs = () => performance.now() } = {}): Clock {
  let offsetMs: number | undefined;
  const databaseMs = () => (offsetMs === undefined ? wallMs() : monotonicMs() + offsetMs);
  return {
    heard(databaseTime) {
      offsetMs = databaseTime.getTime() - monotonicMs();
    },
    agreedMs: () => Math.min(wallMs(), databaseMs()),
    aheadMs: () => wallMs() - databaseMs(),
  };
}
