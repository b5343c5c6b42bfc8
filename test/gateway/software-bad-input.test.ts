import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { makeDatabase, type TestDatabase } from '../support/database.ts';
import { createReporters, nameOf } from './reporters.ts';

let database: TestDatabase;
let reporters: ReturnType<typeof createReporters>;
beforeAll(async () => {
  database = await makeDatabase();
  reporters = createReporters(database.db);
});
afterAll(() => database[Symbol.asyncDispose]());

const second = expect.toSatisfy((at: number) => Math.abs(at - Date.now() / 1_000) < 30);

describe('a report of what a device runs', () => {
  test.each<[string, unknown, string]>([
    ['without a state', { clientToken: 't' }, 'Missing required node: state'],
    ['whose state is a text', { state: 'x', clientToken: 't' }, 'State node must be an object'],
    ['whose state is null', { state: null, clientToken: 't' }, 'State node must be an object'],
    ['that desires something', { state: { desired: { a: 1 } }, clientToken: 't' }, 'Desired node is not taken'],
    ['that reports a list', { state: { reported: [] }, clientToken: 't' }, 'Reported node must be an object'],
    ['that reports a text', { state: { reported: 'x' }, clientToken: 't' }, 'Reported node must be an object'],
    ['of a version without its object', { state: { reported: { app: '1' } }, clientToken: 't' }, 'invalid node: .app'],
    ['of a list of products', { state: { reported: { app: ['1'] } }, clientToken: 't' }, 'invalid node: .app'],
    ['of a version that is an object', update({ app: { version: {} } }), 'invalid node: .app'],
    ['of a version of no characters', update({ app: { version: '' } }), 'invalid node: .app'],
    ['of a version of 65 characters', update({ app: { version: '1'.repeat(65) } }), 'invalid node: .app'],
    ['of a version with a NUL', update({ app: { version: '1\u0000' } }), 'invalid node: .app'],
    ['of a version with a line end', update({ app: { version: '1\n' } }), 'invalid node: .app'],
    ['of a version that is not ASCII', update({ app: { version: '１' } }), 'invalid node: .app'],
    ['of a product of no name', update({ '': { version: '1' } }), 'invalid node: '],
    ['of a product that climbs', update({ '../x': { version: '1' } }), 'invalid node: '],
    ['of a product with a wildcard', update({ 'a*': { version: '1' } }), 'invalid node: '],
    ['of a product of 129 characters', update({ ['x'.repeat(129)]: { version: '1' } }), 'invalid node: '],
    ['of a prototype', `{"state":{"reported":{"__proto__":{"version":"1"}}},"clientToken":"t"}`, 'invalid node: '],
    ['with half a version', { ...update({}), version: 1.5 }, 'Invalid version'],
    ['with a version below nothing', { ...update({}), version: -1 }, 'Invalid version'],
    ['with a version that is a word', { ...update({}), version: 'new' }, 'Invalid version'],
  ])('%s is refused, and nothing is known of it', async (_, body, message) => {
    const { ask, newSession } = reporters;
    const session = await newSession();
    const answer = await ask(session, 'update', body);
    expect(answer).toMatchObject({ outcome: 'rejected', body: { code: 400, timestamp: second, clientToken: 't' } });
    expect(answer.body?.['message']).toMatch(new RegExp(message));
    expect((await ask(session, 'get', '')).body).toMatchObject({ code: 404 });
    expect(await reporters.refusalsOf(session)).toEqual(['software.refused']);
    expect({}).not.toHaveProperty('version');
  });

  test.each<[string, unknown]>([
    ['that is not JSON', '{"state":'],
    ['that is a list', '[]'],
    ['of 17 KiB', `{"state":{"reported":{}},"x":"${'x'.repeat(17 * 1_024)}"}`],
    ['17 levels deep', `{"state":{"reported":{"a":${'{"a":'.repeat(16)}1${'}'.repeat(16)}}}}`],
    ['whose token is a number', { ...update({}), clientToken: 1 }],
    ['whose token has 65 bytes', { ...update({}), clientToken: `${'ä'.repeat(32)}x` }],
  ])('%s is refused without a token', async (_, body) => {
    const { ask, newSession } = reporters;
    const { outcome, body: answer } = await ask(await newSession(), 'update', body);
    expect(outcome).toBe('rejected');
    expect(answer).toEqual({ code: 400, message: expect.any(String), timestamp: second });
  });

  test.each<[string, unknown]>([
    ['with fields that nobody knows', { ...update({ app: { version: '1', attributes: { a: 1 } } }), thingName: 'x' }],
    ['with a NUL at its end', `${JSON.stringify(update({ app: { version: '1' } }))}\0`],
    ['that desires nothing', { state: { desired: null, reported: { app: { version: '1' } } } }],
  ])('%s is taken', async (_, body) => {
    const { ask, newSession } = reporters;
    const session = await newSession();
    expect((await ask(session, 'update', body)).outcome).toBe('accepted');
    expect(await reporters.softwareOf(session)).toEqual({ app: '1' });
  });

  test('on the topic of another device is refused, and is nobody’s', async () => {
    const { ask, newSession } = reporters;
    const [session, other] = [await newSession(), await newSession()];
    for (const thing of [nameOf(other), nameOf(session).toUpperCase(), '+', '']) {
      const { published, outcome } = await ask(session, 'update', update({ app: { version: '6.6.6' } }), thing);
      expect([published.outcome, outcome]).toEqual(['refused', undefined]);
      expect((await ask(session, 'get', '', thing)).published.outcome).toBe('refused');
    }
    expect([await reporters.softwareOf(session), await reporters.softwareOf(other)]).toEqual([{}, {}]);
  });
});

function update(reported: object) {
  return { state: { reported }, clientToken: 't' };
}
