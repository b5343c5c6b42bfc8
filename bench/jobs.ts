import { fork } from 'node:child_process';
import { once } from 'node:events';
import { fileURLToPath } from 'node:url';

/** What a process of its own can be asked to do. Arguments and answers are copied between the processes. */
type Jobs = Record<string, (argument: never) => Promise<unknown>>;

export type Helper<Offered extends Jobs> = AsyncDisposable & {
  run<Name extends keyof Offered & string>(
    name: Name,
    argument: Parameters<Offered[Name]>[0],
  ): Promise<Awaited<ReturnType<Offered[Name]>>>;
};

type Call = { id: number; name: string; argument: unknown };
type Return = { id: number; value?: unknown; error?: string };

/**
 * Starts a module that serves jobs as a process of its own, so that load and baselines take no turn of the event loop
 * of what is measured. It ends when disposed of, and with this process.
 */
export async function openHelper<Offered extends Jobs>(module: string): Promise<Helper<Offered>> {
  const child = fork(fileURLToPath(module), {
    serialization: 'advanced',
    stdio: ['ignore', 'inherit', 'inherit', 'ipc'],
  });
  await once(child, 'message');
  const waiting = new Map<number, PromiseWithResolvers<unknown>>();
  const exited = once(child, 'exit');
  child.once('exit', () => {
    for (const { reject } of waiting.values()) reject(new Error(`${module} ended`));
  });
  child.on('message', ({ id, value, error }: Return) => {
    const call = waiting.get(id);
    waiting.delete(id);
    if (error === undefined) call?.resolve(value);
    else call?.reject(new Error(error));
  });
  let calls = 0;
  return {
    async run<Name extends keyof Offered & string>(
      name: Name,
      argument: Parameters<Offered[Name]>[0],
    ): Promise<Awaited<ReturnType<Offered[Name]>>> {
      const id = (calls += 1);
      const call = Promise.withResolvers<unknown>();
      waiting.set(id, call);
      child.send({ id, name, argument } satisfies Call);
      // The other end runs the function of this name, whose types these are.
      return (await call.promise) as Awaited<ReturnType<Offered[Name]>>;
    },
    async [Symbol.asyncDispose]() {
      child.kill('SIGKILL');
      await exited;
    },
  };
}

/** The other end: what this process does when it is asked. */
export function serveJobs(jobs: Jobs): void {
  process.on('message', ({ id, name, argument }: Call) => {
    const job = jobs[name];
    // `Helper.run` is typed by these very functions.
    const work = job ? job(argument as never) : Promise.reject(new Error(`there is no job ${name}`));
    work.then(
      (value) => process.send?.({ id, value } satisfies Return),
      (error: unknown) => process.send?.({ id, error: error instanceof Error ? error.stack : String(error) }),
    );
  });
  process.once('disconnect', () => process.kill(process.pid, 'SIGKILL'));
  process.send?.('ready');
}
