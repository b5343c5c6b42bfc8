import type { Connection } from './device-connection.ts';
import { commandFilters, commandRequestTopic, commandResponseTopic } from './device-topics.ts';

/** What a hostile device tried on another one's topics, and how it ended: `closed` is the whole connection. */
export type Attempt = { action: 'subscribe' | 'publish'; topic: string; outcome: 'allowed' | 'refused' | 'closed' };

export type Intent = Pick<Attempt, 'action' | 'topic'>;

/** Everything that is another device's, from spying on its commands to answering in its place. */
export function attemptsOn(victim: string): Intent[] {
  const executionId = '00000000-0000-7000-8000-000000000000';
  return [
    ...commandFilters(victim).map((topic) => ({ action: 'subscribe' as const, topic })),
    { action: 'subscribe', topic: commandRequestTopic('+', '+') },
    { action: 'subscribe', topic: '#' },
    { action: 'publish', topic: commandResponseTopic(victim, executionId) },
    { action: 'publish', topic: commandRequestTopic(victim, executionId) },
  ];
}

/** Never rejects: a refusal is what one hopes for. */
export async function attempt(client: Connection, { action, topic }: Intent): Promise<Attempt> {
  const body = JSON.stringify({ status: 'SUCCEEDED' });
  const trying =
    action === 'subscribe' ? client.subscribeAsync(topic, { qos: 1 }) : client.publishAsync(topic, body, { qos: 1 });
  const { promise: closed, resolve: close } = Promise.withResolvers<'closed'>();
  const onClose = () => close('closed');
  client.once('close', onClose);
  const refused = () => (client.connected ? 'refused' : closed);
  const outcome = await Promise.race([trying.then(() => 'allowed' as const, refused), closed]);
  client.off('close', onClose);
  return { action, topic, outcome };
}
