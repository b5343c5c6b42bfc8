import type { Database, Db } from '../db/client.ts';
import { insertCommands, type NewCommand, type Recorded } from '../db/commands.ts';

const atOnceMax = 2;
const commandsMax = 64;
const targetsMax = 2_000;

type Waiting = { command: NewCommand; answer: PromiseWithResolvers<Recorded> };

/**
 * Records commands, those that come at the same time in one statement and one commit. A lone command waits for nobody:
 * gathering happens only while others are being committed. A request that works in a transaction of its own (it carries
 * an idempotency key) records its command there.
 */
export function createRecorder(pool: Database): (db: Db, command: NewCommand) => Promise<Recorded> {
  let atWork = 0;
  const waiting: Waiting[] = [];

  async function work(): Promise<void> {
    atWork += 1;
    while (waiting.length > 0) await recordAll(pool, takeBatch(waiting));
    atWork -= 1;
  }

  return async (db, command) => {
    if (db !== pool) return recordOne(db, command);
    const answer = Promise.withResolvers<Recorded>();
    waiting.push({ command, answer });
    if (atWork < atOnceMax) void work();
    return answer.promise;
  };
}

/** From the front, within both limits; one command is always taken, however many targets it has. */
function takeBatch(waiting: Waiting[]): Waiting[] {
  let targets = 0;
  const end = waiting.findIndex(({ command }, index) => {
    targets += command.targets.length;
    return index === commandsMax || (index > 0 && targets > targetsMax);
  });
  return waiting.splice(0, end === -1 ? waiting.length : end);
}

/** Never rejects: each of those who wait gets its answer, or the error. */
async function recordAll(db: Db, batch: Waiting[]): Promise<void> {
  try {
    const recorded = await insertCommands(
      db,
      batch.map(({ command }) => command),
    );
    for (const [index, { answer }] of batch.entries()) {
      const outcome = recorded[index];
      if (outcome) answer.resolve(outcome);
    }
  } catch (error) {
    if (batch.length === 1 || !isStatementFault(error)) return batch.forEach(({ answer }) => answer.reject(error));
    // One of them is at fault, and nothing of the statement stands: each alone, so that the others do not suffer.
    for (const one of batch) await recordAll(db, [one]);
  }
}

async function recordOne(db: Db, command: NewCommand): Promise<Recorded> {
  const [recorded] = await insertCommands(db, [command]);
  if (!recorded) throw new Error('every command has an outcome');
  return recorded;
}

/** Whether Postgres refused the data (SQLSTATE 22, 23): then it certainly kept nothing. */
function isStatementFault(error: unknown): boolean {
  for (let cause = error; cause instanceof Error; cause = cause.cause) {
    if ('code' in cause && typeof cause.code === 'string' && /^2[23]\d/.test(cause.code)) return true;
  }
  return false;
}
