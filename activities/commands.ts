import { insertAudit } from '../db/audit.ts';
import { timeOutTargets } from '../db/command-endings.ts';
import { countTargets, markFinished } from '../db/command-reviews.ts';
import type { Deps } from './deps.ts';

type Review = { open: number; closesAtMs: number; summary: string };

export const commandActivities = ({ db }: Deps) => ({
  /**
   * Where the command stands; past its deadline, ends the targets that are still open. Repeating it is safe: a target
   * that has ended is not touched again, and the counts are read from the rows each time.
   */
  async reviewCommand({ commandId }: { commandId: string }): Promise<Review> {
    return db.transaction(async (tx) => {
      const timedOut = await timeOutTargets(tx, commandId);
      if (timedOut > 0) {
        await insertAudit(tx, 'system/lifecycle', {
          action: 'command.timed-out',
          subject: `command/${commandId}`,
          data: { targets: timedOut },
        });
      }
      const review = await countTargets(tx, commandId);
      if (!review) return { open: 0, closesAtMs: 0, summary: 'The command is gone.' };
      const { counts, deadlineAt } = review;
      const open = (counts.CREATED ?? 0) + (counts.IN_PROGRESS ?? 0);
      if (open === 0) await markFinished(tx, commandId);
      const summary = Object.entries(counts).map(([status, count]) => `${count} ${status}`);
      return { open, closesAtMs: deadlineAt.getTime(), summary: summary.toSorted().join(', ') };
    });
  },
});
