const stopSignals = ['SIGTERM', 'SIGINT', 'SIGHUP'] as const;
const parentPollMs = 500;

/**
 * Aborted when the stack is asked to stop: by a signal, or by the end of the `npm start` that runs it, which may be
 * killed without passing anything on. A second signal ends this process at once, and the watchdogs end the parts.
 */
export function stopSignal(): AbortSignal {
  const controller = new AbortController();
  const stop = (reason: string) => {
    for (const name of stopSignals) process.off(name, stop);
    clearInterval(watch);
    controller.abort(reason);
  };
  for (const name of stopSignals) process.on(name, stop);
  const parent = process.ppid;
  const watch = setInterval(() => {
    if (isRunByNpm() && process.ppid !== parent) stop('npm is gone');
  }, parentPollMs);
  watch.unref();
  return controller.signal;
}

const isRunByNpm = (): boolean => process.env['npm_lifecycle_event'] === 'start';
