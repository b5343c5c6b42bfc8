import type { Session } from './messages.ts';
import { candidates, match, owns, topics, type Topic } from './topics.ts';

type Action = 'publish' | 'subscribe' | 'receive';

const heard = Object.values<Topic>(topics).filter(({ direction }) => direction === 'out');

/**
 * Whether this session may publish to a topic, subscribe to a filter, or be told of a topic: the one place that decides
 * it, over the one table of topics. What the table does not know is refused; a device speaks of itself alone; a wildcard
 * never stands where somebody is named.
 */
export function may(session: Pick<Session, 'identity' | 'clientId'>, action: Action, topic: string): boolean {
  if (action === 'subscribe') return maySubscribe(session, topic);
  return candidates(action === 'publish' ? 'in' : 'out', topic).some(({ pattern, who }) => {
    const params = who.includes(session.identity.kind) ? match(pattern, topic) : undefined;
    return params !== undefined && ownsAll(session, pattern, params);
  });
}

/** A filter has to match something that this kind may hear, and nothing of somebody else's. */
function maySubscribe(session: Pick<Session, 'identity' | 'clientId'>, filter: string): boolean {
  let hears = false;
  for (const { pattern, who } of heard) {
    const params = unify(pattern, filter);
    if (!params) continue;
    if (!ownsAll(session, pattern, params)) return false;
    hears ||= who.includes(session.identity.kind);
  }
  return hears;
}

/** Everything in the pattern that belongs to somebody is named, and belongs to this session. */
function ownsAll(
  session: Pick<Session, 'identity' | 'clientId'>,
  pattern: string,
  params: Record<string, string>,
): boolean {
  if (pattern.includes('{target}') && params['target'] === undefined) return false;
  return !/[+#]/.test(params['target'] ?? '') && owns(session, params);
}

/**
 * The levels of a filter that stand for the pattern's `{name}`s, when the filter matches topics of that pattern;
 * undefined when it matches none. Levels under a `#` are not there.
 */
function unify(pattern: string, filter: string): Record<string, string> | undefined {
  const levels = pattern.split('/');
  const asked = filter.split('/');
  const params: [string, string][] = [];
  for (const [index, level] of levels.entries()) {
    const given = asked[index];
    // A wildcard in the first level does not match what begins with `$` (MQTT 4.7.2).
    if (given === '#') return index > 0 ? Object.fromEntries(params) : undefined;
    if (given === undefined) return undefined;
    if (level.startsWith('{')) params.push([level.slice(1, -1), given]);
    else if (level !== given && (given !== '+' || index === 0)) return undefined;
  }
  const rest = asked.slice(levels.length);
  const isMatch = rest.length === 0 || (rest.length === 1 && rest[0] === '#');
  return isMatch ? Object.fromEntries(params) : undefined;
}
