export type StreamedEvent = { id: string; kind: string; data: Record<string, unknown> };

/** Reads server-sent events as a browser does, one after the other. */
export function readEvents(body: ReadableStream<Uint8Array> | null) {
  const reader = body?.getReader();
  const decoder = new TextDecoder();
  const events: StreamedEvent[] = [];
  const comments: string[] = [];
  let text = '';
  const take = (block: string) => {
    const fields = new Map<string, string>();
    for (const line of block.split('\n')) {
      const [, name = '', value = ''] = /^([^:]*): ?(.*)$/.exec(line) ?? [];
      if (name === '') comments.push(value);
      else fields.set(name, value);
    }
    const [id, kind, data] = ['id', 'event', 'data'].map((name) => fields.get(name));
    if (id !== undefined && kind !== undefined && data !== undefined) events.push({ id, kind, data: JSON.parse(data) });
  };
  /** False when the stream has ended. */
  const read = async () => {
    const { value, done } = (await reader?.read()) ?? { value: undefined, done: true };
    const blocks = (text + decoder.decode(value, { stream: true })).split('\n\n');
    text = blocks.pop() ?? '';
    for (const block of blocks) take(block);
    return !done;
  };
  return {
    comments,
    /** The next event; undefined when the stream has ended. */
    async next(): Promise<StreamedEvent | undefined> {
      while (events.length === 0 && (await read()));
      return events.shift();
    },
    /** Resolves when the stream has said that it is alive. */
    async comment(): Promise<void> {
      while (comments.length === 0 && (await read()));
    },
    close: () => reader?.cancel(),
  };
}
