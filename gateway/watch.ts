import type { Connection } from './connections.ts';
import type { Limits } from './limits.ts';

const everyMs = 1_000;
/** A process that slept longer than this between two looks has heard nobody, and that is not their fault. */
const sleptMs = 3_000;

/**
 * Looks after the connections once a second: ends those that fell silent (MQTT 3.1.2-24: one and a half times the keep
 * alive) or whose certificate has ended by `nowMs`, and gives up messages that nobody acknowledges. A connection that has
 * publishes under way is not read, and so never silent.
 */
export function watchConnections(all: () => Connection[], limits: Limits, nowMs = Date.now): { stop(): void } {
  let lookedAt = performance.now();

  function look(): void {
    const now = performance.now();
    const slept = now - lookedAt > sleptMs;
    lookedAt = now;
    const date = nowMs();
    for (const connection of all()) {
      const { session, asked, incoming, outgoing } = connection;
      if (slept || incoming.busy) connection.heardAt = now;
      outgoing?.expire(now - limits.acknowledgeWithinMs);
      if (session && session.identity.notAfter.getTime() <= date) connection.end('AUTH_ERROR');
      else if (asked && asked.keepAliveMs > 0 && now - connection.heardAt > 1.5 * asked.keepAliveMs) {
        connection.end('MQTT_KEEP_ALIVE_TIMEOUT');
      }
    }
  }

  const timer = setInterval(look, everyMs);
  return { stop: () => clearInterval(timer) };
}
