import type { EventEmitter } from 'node:events';
import { setTimeout as pause } from 'node:timers/promises';
import type { Connection } from './device-connection.ts';
import type { Behaviour, DeviceEvents } from './device.ts';
import type { Journal, Report } from './device-journal.ts';
import { openReporter, type Answer, type Reporter } from './device-reports.ts';
import { commandFilters, readCommandTopic } from './device-topics.ts';
import { work } from './device-work.ts';

export type CommandsDeps = {
  device: string;
  journal: Journal;
  behaviour: Behaviour;
  events: EventEmitter<DeviceEvents>;
  /** Ends the work, as a power cut would. */
  signal: AbortSignal;
};

export type Commands = {
  receive: (topic: string, payload: Buffer) => void;
  /** Subscribes, says what is still to be said, and resolves when the connection has ended. */
  serve: (client: Connection) => Promise<void>;
};

/**
 * Carries out what the fleet sends, each execution once. The work goes on while the connection is away; what came of it
 * is told, over this connection or the next, until the server has answered.
 */
export function commandsOf({ device, journal, behaviour, events, signal }: CommandsDeps): Commands {
  let reporter: Reporter | undefined;

  async function perform(id: string, payload: Buffer): Promise<void> {
    reporter?.tell(id, { status: 'IN_PROGRESS' });
    if (behaviour.slowMs > 0) await pause(behaviour.slowMs, undefined, { signal });
    const report = await work(payload, signal);
    journal.keep({ id, report });
    reporter?.tell(id, report);
  }

  function settled(id: string, report: Report, answer: Answer): void {
    if (report.status !== 'IN_PROGRESS') journal.keep({ id, report, settled: true });
    if (answer.accepted) events.emit('reported', id, report.status);
    else events.emit('refused', id, `${answer.error}: ${answer.message}`);
  }

  return {
    receive(topic, payload) {
      const read = readCommandTopic(device, topic);
      if (!read) return;
      const { executionId: id, about } = read;
      if (about !== 'request') return reporter?.hear(id, about, payload);
      const known = journal.find(id);
      if (known?.report) return reporter?.tell(id, known.report);
      if (known) return;
      journal.keep({ id });
      events.emit('received', id);
      // Rejects only when the device stops in the middle of it; the next start finds that in the journal.
      perform(id, payload).catch(() => {});
    },

    async serve(client) {
      const ended = new Promise<void>((resolve) => client.once('close', () => resolve()));
      reporter = openReporter({
        device,
        publish: (topic, payload) => client.publishAsync(topic, payload, { qos: 1 }),
        loses: () => Math.random() < behaviour.lossy,
        settled,
      });
      try {
        await client.subscribeAsync(commandFilters(device), { qos: 1 });
        events.emit('connected');
        for (const { id, report } of journal.open()) reporter.tell(id, report ?? { status: 'IN_PROGRESS' });
        await ended;
        events.emit('disconnected');
      } finally {
        reporter.close();
      }
    },
  };
}
