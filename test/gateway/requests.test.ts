import { describe, expect, test } from 'vitest';
import { createRequests, type Reply, type Request } from '../../gateway/requests.ts';
import { match, topics } from '../../gateway/topics.ts';
import { claimSession, createEar, noEffects, sessionOf } from './ear.ts';

const device = sessionOf({ id: '01900000-0000-7000-8000-000000000001', name: 'pump-1' });
const claim = claimSession({ claimId: 'c', template: 'default', certificateId: '0'.repeat(64) });
const responseTopic = '$aws/commands/things/pump-1/executions/e1/response/json';

/** Effects that take everything, and keep what reached them. */
function rig(reply: Reply | Error = { accepted: { ok: true } }) {
  const ear = createEar();
  const reached: unknown[] = [];
  const refused: unknown[] = [];
  const effect = async ({ body }: Request<unknown>) => {
    reached.push(body);
    if (reply instanceof Error) throw reply;
    return reply;
  };
  const provisioning = {
    createKeys: effect,
    createFromCsr: effect,
    register: effect,
  };
  const refusals = { recordNow: async (_: string, entry: unknown) => void refused.push(entry) };
  const { dispatch } = createRequests({
    ...noEffects,
    commands: { respond: effect },
    provisioning,
    listener: ear,
    refusals,
  });
  const send = (topic: string, payload: string | Uint8Array, session = device) =>
    dispatch(session, { topic, payload: Buffer.from(payload), qos: 1 });
  return { ear, reached, refused, send, dispatch };
}

describe('a payload', () => {
  const nested = (depth: number) => `{"status":"SUCCEEDED","result":${'{"a":'.repeat(depth)}1${'}'.repeat(depth)}}`;

  test.each([
    ['not JSON', 'not json', 'InvalidJson'],
    ['cut short', '{"status":', 'InvalidJson'],
    ['not UTF-8', Uint8Array.of(0x7b, 0xff, 0x7d), 'InvalidJson'],
    ['an array', '[]', 'InvalidRequest'],
    ['a number', '17', 'InvalidRequest'],
    ['null', 'null', 'InvalidRequest'],
    ['empty, where a field is needed', '', 'InvalidRequest'],
    ['nothing but NUL', '\0', 'InvalidRequest'],
    ['nested 17 levels', nested(16), 'InvalidRequest'],
    ['nested 50,000 levels', nested(50_000), 'InvalidRequest'],
    ['1 MiB large', `{"status":"SUCCEEDED","x":"${'x'.repeat(1_048_576)}"}`, 'InvalidRequest'],
    ['with a status that only we may set', '{"status":"CANCELED"}', 'InvalidRequest'],
    ['with a number for a status', '{"status":1}', 'InvalidRequest'],
    ['with its status under __proto__', '{"__proto__":{"status":"SUCCEEDED"}}', 'InvalidRequest'],
  ])('that is %s is rejected and reaches nothing', async (_, payload, error) => {
    const { ear, reached, send } = rig();
    expect(await send(responseTopic, payload)).toEqual({ outcome: 'committed' });
    expect(reached).toEqual([]);
    expect(ear.answers).toMatchObject([
      { topic: '$aws/commands/things/pump-1/executions/e1/response/rejected/json', body: { error, executionId: 'e1' } },
    ]);
    expect(ear.answers[0]?.body['errorMessage']).toEqual(expect.any(String));
  });

  test.each([
    ['a terminating NUL', '{"status":"SUCCEEDED"}\0'],
    ['fields that nobody knows', '{"status":"SUCCEEDED","thingName":"x","executionId":"y"}'],
    ['a byte order mark', '\ufeff{"status":"SUCCEEDED"}'],
    ['duplicate keys, of which the last counts', '{"status":"nonsense","status":"SUCCEEDED"}'],
    ['__proto__ and constructor', '{"status":"SUCCEEDED","__proto__":{"polluted":1},"constructor":{"prototype":{}}}'],
    ['a reason and a result of the wrong kind', '{"status":"SUCCEEDED","statusReason":5,"result":["x"]}'],
    ['16 levels', nested(15)],
  ])('with %s is taken', async (_, payload) => {
    const { reached, send } = rig();
    await send(responseTopic, payload);
    expect(reached).toMatchObject([{ status: 'SUCCEEDED' }]);
    expect(({} as Record<string, unknown>)['polluted']).toBeUndefined();
  });

  test('that is empty means no fields', async () => {
    const { reached, send } = rig();
    await send('$aws/certificates/create/json', '', claim);
    expect(reached).toEqual([{}]);
  });

  test('may give the parameters of a registration as numbers and truth values', async () => {
    const { reached, send } = rig();
    const body = '{"certificateOwnershipToken":"t","parameters":{"serial":17,"on":true,"__proto__":"x"}}';
    await send('$aws/provisioning-templates/default/provision/json', body, claim);
    expect(reached).toEqual([{ certificateOwnershipToken: 't', parameters: { serial: '17', on: 'true' } }]);
  });
});

describe('a topic', () => {
  test.each([
    ['of another device', device, '$aws/commands/things/pump-2/executions/e1/response/json'],
    ['of another client', device, '$aws/commands/clients/other/executions/e1/response/json'],
    ['with the name in another case', device, '$aws/commands/things/PUMP-1/executions/e1/response/json'],
    ['that is ours to say', device, '$aws/commands/things/pump-1/executions/e1/request/json'],
    ['of provisioning, for a device', device, '$aws/provisioning-templates/default/provision/json'],
    ['of commands, for a claim', claim, responseTopic],
    ['that nobody knows', device, '$aws/things/pump-1/nothing'],
    ['outside the contract', device, 'telemetry/pump-1'],
    ['that is empty', device, ''],
  ])('%s is refused and nothing is answered', async (_, session, topic) => {
    const { ear, reached, send } = rig();
    expect(await send(topic, '{"status":"SUCCEEDED"}', session)).toMatchObject({ outcome: 'refused' });
    expect([...reached, ...ear.answers]).toEqual([]);
  });

  test('under the connection’s own client id is its own', async () => {
    const { ear, send } = rig();
    await send('$aws/commands/clients/client/executions/e1/response/json', '{"status":"SUCCEEDED"}');
    expect(ear.answers[0]?.topic).toBe('$aws/commands/clients/client/executions/e1/response/accepted/json');
  });

  test('takes no retained message', async () => {
    const { dispatch, reached } = rig();
    const message = {
      topic: responseTopic,
      payload: Buffer.from('{"status":"SUCCEEDED"}'),
      qos: 1 as const,
      retain: true,
    };
    expect(await dispatch(device, message)).toMatchObject({ outcome: 'refused' });
    expect(reached).toEqual([]);
  });

  test('matches only level by level', () => {
    const { pattern } = topics.provision;
    expect(match(pattern, '$aws/provisioning-templates/a/provision/json')).toEqual({ template: 'a' });
    expect(match(pattern, '$aws/provisioning-templates/a/b/provision/json')).toBeUndefined();
    expect(match(pattern, '$aws/provisioning-templates/a/provision/json/accepted')).toBeUndefined();
  });
});

describe('an answer', () => {
  test('goes to the connection that asked', async () => {
    const { ear, send } = rig();
    await send('$aws/certificates/create/json', '{}', claim);
    expect(ear.answers).toEqual([
      { session: claim, topic: '$aws/certificates/create/json/accepted', body: { ok: true } },
    ]);
  });

  test('that refuses is kept on record, whoever asked', async () => {
    const fault = { code: 'ClaimExpired', detail: 'over', status: 403 };
    const { ear, refused, send } = rig({ refused: fault });
    await send('$aws/certificates/create/json', '{}', claim);
    await send('$aws/certificates/create/json', 'x', claim);
    expect(ear.answers.map(({ body }) => body['errorCode'])).toEqual(['ClaimExpired', 'InvalidJson']);
    expect(ear.answers[0]?.body).toEqual({ statusCode: 403, errorCode: 'ClaimExpired', errorMessage: 'over' });
    await send(responseTopic, 'x');
    expect(refused).toMatchObject([
      { action: 'enrolment.refused', subject: 'claim/c', data: { code: 'ClaimExpired' } },
      { action: 'enrolment.refused', data: { code: 'InvalidJson' } },
      { action: 'command.refused', subject: 'device/pump-1', data: { code: 'InvalidJson' } },
    ]);
  });

  test('is not given when nobody knows what became of the request, nor when an effect fails', async () => {
    for (const reply of [{ givenUp: 'away' }, new Error('bug')]) {
      const { ear, send } = rig(reply);
      expect(await send(responseTopic, '{"status":"SUCCEEDED"}')).toMatchObject({ outcome: 'given-up' });
      expect(ear.answers).toEqual([]);
    }
  });
});
