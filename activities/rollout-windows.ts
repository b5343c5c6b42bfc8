import type { Window } from '../db/rollout-plan.ts';

/** Whether a window of the zone is open at this instant, and when that changes next. */
export type Opening = { open: boolean; changesAt: Date | undefined };

/**
 * Looks at the wall clock of the zone, so that 22:00 is 22:00 on either side of a daylight-saving change: a time that
 * the clock leaps over counts as one hour later, one that comes twice begins at the first and ends at the last.
 * A window whose `to` is not after its `from` ends on the next day.
 */
export function openingAt(windows: Window[], zone: string, now: Date): Opening {
  const at = now.getTime();
  const today = Temporal.Instant.fromEpochMilliseconds(at).toZonedDateTimeISO(zone).toPlainDate();
  // A window that began yesterday may still be open; with one a week, the next opens in eight days at the latest.
  const spans = Array.from({ length: 10 }, (_, index) => today.add({ days: index - 1 })).flatMap((day) =>
    windows.filter(({ days }) => days.includes(day.dayOfWeek)).map((window) => spanOn(window, day, zone)),
  );
  const current = spans.filter(({ from, to }) => from <= at && at < to);
  if (current.length > 0) return { open: true, changesAt: new Date(Math.max(...current.map(({ to }) => to))) };
  const coming = spans.filter(({ from, to }) => from > at && to > from).map(({ from }) => from);
  return { open: false, changesAt: coming.length > 0 ? new Date(Math.min(...coming)) : undefined };
}

function spanOn({ from, to }: Window, day: Temporal.PlainDate, zone: string): { from: number; to: number } {
  const lastDay = to > from ? day : day.add({ days: 1 });
  const instant = (date: Temporal.PlainDate, time: string, disambiguation: 'compatible' | 'later') =>
    date.toPlainDateTime(time).toZonedDateTime(zone, { disambiguation }).epochMilliseconds;
  return { from: instant(day, from, 'compatible'), to: instant(lastDay, to, 'later') };
}
