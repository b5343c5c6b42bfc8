/**
 * Whether a subscription's filter matches a topic (MQTT 4.7). A filter that begins with a wildcard does not match a
 * topic that begins with `$` (4.7.2-1).
 */
export function matchesFilter(filter: string, topic: string): boolean {
  if (filter === topic) return true;
  if (topic.startsWith('$') && !filter.startsWith('$')) return false;
  const asked = filter.split('/');
  const given = topic.split('/');
  for (const [index, level] of asked.entries()) {
    if (level === '#') return true;
    if (index >= given.length) return false;
    if (level !== '+' && level !== given[index]) return false;
  }
  return asked.length === given.length;
}

/** Whether the filter is well formed: a wildcard has its level to itself, and `#` stands last (MQTT 4.7.1). */
export function isFilter(filter: string): boolean {
  const levels = filter.split('/');
  return levels.every((level, index) => {
    if (level === '#') return index === levels.length - 1;
    return level === '+' || !/[+#\0]/.test(level);
  });
}
