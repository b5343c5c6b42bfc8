import { randomUUID } from 'node:crypto';
import { setTimeout as pause } from 'node:timers/promises';
import { eventually } from '../support/eventually.ts';
import type { System } from '../support/system.ts';

/** A command that the API has answered with 202. */
export type Accepted = { id: string; message: string; targets: { device: string; executionId: string }[] };

export type CommandStream = {
  accepted: Accepted[];
  /** Sends no more, and resolves when all that were sent are accepted. */
  stop(): Promise<void>;
};

const withinMs = 60_000;

/** Asks until the API says 202, under one key: an answer that got lost makes no second command. */
export async function sendEcho({ ask }: System, devices: string[], timeoutSeconds = 900): Promise<Accepted> {
  const message = randomUUID();
  const request = { targets: devices, payload: { operation: 'echo', message }, timeoutSeconds };
  return eventually(
    async () => {
      const { status, text, body } = await ask('POST', '/v1/commands', request, { 'idempotency-key': message });
      if (status !== 202) throw new Error(`the API says ${status}: ${text}`);
      const { id, targets } = body as Pick<Accepted, 'id' | 'targets'>;
      return { id, message, targets: targets.map(({ device, executionId }) => ({ device, executionId })) };
    },
    { withinMs },
  );
}

/** Two operators who send commands to devices in turn, so many to one command, whatever happens to the parts. */
export function streamCommands(
  system: System,
  devices: string[],
  { targets = 4, everyMs = 250 }: { targets?: number; everyMs?: number } = {},
): CommandStream {
  const accepted: Accepted[] = [];
  let stopped = false;
  let next = 0;

  async function operate(): Promise<void> {
    while (!stopped) {
      const chosen = Array.from({ length: targets }, () => devices[next++ % devices.length] ?? '');
      accepted.push(await sendEcho(system, chosen));
      await pause(everyMs);
    }
  }

  const operators = Promise.all([operate(), operate()]);
  operators.catch(() => {}); // told by `stop`
  return {
    accepted,
    async stop() {
      stopped = true;
      await operators;
    },
  };
}
