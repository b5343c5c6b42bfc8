import { condition, setHandler, type SignalDefinition } from '@temporalio/workflow';

export type Inbox<T> = {
  /** The oldest message not yet taken; undefined when none came within the time. `summary` names the wait in the UI. */
  next(withinMs: number, summary: string): Promise<T | undefined>;
  /** Takes what has gathered, without waiting: for pokes, of which one says as much as ten. */
  drain(): T[];
  /** Lays in what an update brought, so that one wait hears of both. */
  put(message: T): void;
};

/** Opens the inbox of some kinds of signal, in the order in which they come. Call it before the workflow's first await, or early messages are lost. */
export function inbox<T>(...definitions: SignalDefinition<[T]>[]): Inbox<T> {
  const messages: T[] = [];
  for (const definition of definitions) setHandler(definition, (message: T) => void messages.push(message));
  return {
    async next(withinMs, summary) {
      if (messages.length === 0 && withinMs > 0) {
        await condition(() => messages.length > 0, withinMs, { summary });
      }
      return messages.shift();
    },
    drain: () => messages.splice(0),
    put: (message) => void messages.push(message),
  };
}
