import type { DeviceFolder } from './device-folder.ts';

/** A response of AWS Commands, as it goes over the wire. */
export type Report = {
  status: 'IN_PROGRESS' | 'SUCCEEDED' | 'FAILED' | 'REJECTED' | 'TIMED_OUT';
  statusReason?: { reasonCode: string; reasonDescription?: string };
  result?: Record<string, { s: string } | { b: boolean }>;
};

/** `report` is absent while the work is under way; `settled` says that the server has answered the report. */
export type Execution = { id: string; report?: Report; settled?: boolean };

export type Journal = {
  find(id: string): Execution | undefined;
  keep(execution: Execution): void;
  /** What the server has not answered yet, finished or not. */
  open(): Execution[];
};

const settledKeptMax = 1_000;

/**
 * Every execution that this device ever began, so that none runs twice: one line per step, the last line of an id counts.
 * Work that a restart has interrupted is reported as failed, for nobody knows how far it got. Of what is settled only
 * the latest thousand are remembered.
 */
export function openJournal(folder: Pick<DeviceFolder, 'readJournal' | 'appendJournal' | 'replaceJournal'>): Journal {
  const executions = new Map<string, Execution>();
  for (const line of folder.readJournal()) {
    const execution = parse(line);
    if (!execution) continue;
    executions.delete(execution.id);
    executions.set(execution.id, execution);
  }
  for (const execution of executions.values()) execution.report ??= interrupted;
  const surplus = [...executions.values()].filter(({ settled }) => settled).slice(0, -settledKeptMax);
  for (const { id } of surplus) executions.delete(id);
  folder.replaceJournal([...executions.values()].map((execution) => JSON.stringify(execution)));

  return {
    find: (id) => executions.get(id),
    keep(execution) {
      executions.set(execution.id, execution);
      folder.appendJournal(JSON.stringify(execution));
    },
    open: () => [...executions.values()].filter(({ settled }) => !settled),
  };
}

const interrupted: Report = {
  status: 'FAILED',
  statusReason: { reasonCode: 'INTERRUPTED', reasonDescription: 'The device restarted while it was at work.' },
};

/** A line that was cut short by a kill is none. */
function parse(line: string): Execution | undefined {
  try {
    // Only `keep` above writes whole lines.
    const execution: Execution = JSON.parse(line);
    return execution;
  } catch {
    return undefined;
  }
}
