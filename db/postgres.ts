import { createRequire, registerHooks } from 'node:module';
import { pathToFileURL } from 'node:url';
import type Postgres from 'postgres';

/**
 * What postgres.js 3.4.9 does wrong when it loses a connection, each with its correction. Uncorrected, a Postgres that
 * dies under load ends the process, and leaves most of the pool unable ever to send again (porsager/postgres#1154,
 * #1208). The package is pinned; another version must be looked at anew, and is refused until it was.
 */
const corrections: Record<string, [wrong: string, right: string][]> = {
  'connection.js': [
    // A write that waits when the socket closes is forgotten, or the next connection would never send its first.
    [
      'incomings = null\n    clearImmediate(nextWriteTimer)\n',
      'incomings = null\n    clearImmediate(nextWriteTimer)\n    chunk = nextWriteTimer = null\n',
    ],
    [
      "error(Errors.connection('CONNECTION_DESTROYED', options))\n\n    clearImmediate(nextWriteTimer)\n",
      "error(Errors.connection('CONNECTION_DESTROYED', options))\n\n    clearImmediate(nextWriteTimer)\n    chunk = nextWriteTimer = null\n",
    ],
    // What is written to a connection that is gone fails; it does not throw where nobody can catch it.
    [
      'const x = socket.write(chunk, fn)\n',
      `if (!socket) {
      nextWriteTimer !== null && clearImmediate(nextWriteTimer)
      chunk = nextWriteTimer = null
      error(Errors.connection('CONNECTION_CLOSED', options, socket))
      return true
    }
    const x = socket.write(chunk, fn)
`,
    ],
    // What was handed to the connection between its error and its close fails as well; it would wait for ever.
    ['!hadError && (query || sent.length) && error(', 'if (query || sent.length) error('],
    // The library's own first question may fail like any other; whoever waits for the connection is told already.
    ['return fetchArrayTypes()\n', 'return fetchArrayTypes().catch(() => {})\n'],
  ],
  // The rest of a transaction fails with its connection. It could be executed in the next one's transaction.
  'index.js': [
    ['let savepoints = 0\n', 'let lost\n    let savepoints = 0\n'],
    ['connection.onclose = reject)', 'connection.onclose = (error) => reject((lost = error)))'],
    [
      'q.catch(e => uncaughtError || (uncaughtError = e))\n',
      'q.catch(e => uncaughtError || (uncaughtError = e))\n        if (lost) return q.reject(lost)\n',
    ],
  ],
};

/** The corrected files are modules of their own: Drizzle has loaded the others by now. */
const mark = '?corrected';
const waiting = new Set(Object.keys(corrections));

const hooks = registerHooks({
  resolve(specifier, context, next) {
    const resolved = next(specifier, context);
    const isInside = context.parentURL?.endsWith(mark) === true && specifier.startsWith('.');
    return isInside ? { ...resolved, url: resolved.url + mark } : resolved;
  },
  load(url, context, next) {
    const loaded = next(url, context);
    const [, file = ''] = /\/([^/]+)\?corrected$/.exec(url) ?? [];
    const wanted = corrections[file];
    if (!wanted) return loaded;
    waiting.delete(file);
    const source = typeof loaded.source === 'string' ? loaded.source : new TextDecoder().decode(loaded.source);
    return { ...loaded, source: correct(source, wanted) };
  },
});

function correct(source: string, wanted: [wrong: string, right: string][]): string {
  let corrected = source;
  for (const [wrong, right] of wanted) {
    if (corrected.split(wrong).length !== 2)
      throw new Error('db/postgres.ts does not know this version of postgres.js');
    corrected = corrected.replace(wrong, () => right);
  }
  return corrected;
}

const required = pathToFileURL(createRequire(import.meta.url).resolve('postgres'));
const { href } = new URL('../../src/index.js', required);
// The module is that of the package, by another name.
const corrected = (await import(href + mark)) as { default: typeof Postgres };
hooks.deregister();
if (waiting.size > 0) throw new Error(`postgres.js was loaded without its corrections: ${[...waiting].join()}`);

export const postgres = corrected.default;
