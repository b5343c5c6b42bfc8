import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { makeApi } from '../support/api.ts';
import { makeDatabase, type TestDatabase } from '../support/database.ts';

let database: TestDatabase;
let api: Awaited<ReturnType<typeof makeApi>>;
const names = ['a-1', 'a-2', 'B-1', 'b-2', 'c_1'];

beforeAll(async () => {
  database = await makeDatabase();
  api = await makeApi(database.db);
  for (const [index, name] of names.entries()) {
    await api.ask('POST', '/v1/devices', { name, attributes: { line: index % 2 ? 'odd' : 'even' } });
  }
  await api.ask('POST', '/v1/devices/b-2/block');
});
afterAll(() => database[Symbol.asyncDispose]());

const list = (query: Record<string, string>, path = '/v1/devices') =>
  api.ask('GET', `${path}?${new URLSearchParams(query).toString()}`);
const filtered = async (filter: string) => (await list({ filter })).body.items.map(({ name }) => name);

async function walk(path: string): Promise<string[]> {
  const seen: string[] = [];
  for (let next: string | undefined = path; next;) {
    const { status, headers, body } = await api.ask('GET', next);
    expect(status).toBe(200);
    seen.push(...body.items.map(({ id }) => id));
    next = /<(.*)>; rel="next"/.exec(headers.get('link') ?? '')?.[1];
  }
  return seen;
}

describe('a list', () => {
  test.each(['/v1/devices', '/v1/audit', '/v1/devices?filter=name!=a-1'])(
    '%s is walked by its links, each row once',
    async (path) => {
      const separator = path.includes('?') ? '&' : '?';
      const whole = await walk(`${path}${separator}limit=500`);
      expect(await walk(`${path}${separator}limit=2`)).toEqual(whole);
      expect(new Set(whole).size).toBe(whole.length);
    },
  );

  test.each(['0', '501', '-1', '1.5', 'x', ''])('refuses a limit of "%s"', async (limit) => {
    expect(await list({ limit })).toMatchObject({ status: 400, body: { errors: [{ parameter: 'limit' }] } });
  });

  test('refuses parameters that it does not know, and one given twice', async () => {
    expect(await list({ sort: 'name' })).toMatchObject({ status: 400, body: { errors: [{ parameter: 'sort' }] } });
    expect((await api.ask('GET', '/v1/devices?limit=1&limit=2')).status).toBe(400);
  });

  test('refuses a cursor that was tampered with, is of another list or another filter', async () => {
    const { headers } = await list({ limit: '1' });
    const cursor = /cursor=([\w-]+)/.exec(headers.get('link') ?? '')?.[1] ?? '';
    expect((await list({ cursor })).status).toBe(200);
    const changed = cursor.slice(0, -3) + (cursor.endsWith('AAA') ? 'BBB' : 'AAA');
    for (const wrong of [changed, cursor.slice(4), `${cursor}A`, 'x', 'W10', `${cursor}=`]) {
      expect((await list({ cursor: wrong })).body.type).toBe('urn:longhaul:problem:foreign-cursor');
    }
    expect((await list({ cursor, filter: 'name==*' })).status).toBe(400);
    expect((await list({ cursor }, '/v1/audit')).status).toBe(400);
  });
});

describe('a filter', () => {
  test.each([
    ['name==A-1', ['a-1']],
    ['name==b*', ['B-1', 'b-2']],
    ['name==*-1', ['a-1', 'B-1']],
    ['name!=*-*', ['c_1']],
    ['name=in=(a-1,c_1)', ['a-1', 'c_1']],
    ['name=out=(a-1,c_1,a-2)', ['B-1', 'b-2']],
    ['state==BLOCKED', ['b-2']],
    ['attributes.line==odd;name==a*', ['a-2']],
    ['(name==a-1,name==b-2);state!=BLOCKED', ['a-1']],
    ['createdAt=gt=2026-01-01', names],
    ['createdAt=lt=2026-01-01T00:00:00Z', []],
    ['name=="c_1"', ['c_1']],
  ])('%s finds what it says', async (filter, expected) => {
    expect(await filtered(filter)).toEqual(expected);
  });

  test.each(['c%', "' or '1'='1", "a-1') or 1=1--", '\\', '_-1', "x'; drop table devices; --", '%', '*%*'])(
    'takes the value %s for nothing but a value',
    async (value) => {
      expect(await filtered(`name=="${value.replaceAll('\\', '\\\\')}"`)).toEqual([]);
      expect(await filtered('name==*')).toEqual(names);
    },
  );

  test.each([
    ['an unknown field', 'secret==1'],
    ['a column that is not a field', 'id==1'],
    ['a prototype', 'constructor==1'],
    ['a prototype by its name', '__proto__==1'],
    ['SQL for a field', '"name) or (1=1"==x'],
    ['an attribute of no name', 'attributes.==x'],
    ['an operator that the field has not', 'state=gt=ACTIVE'],
    ['an operator that nobody has', 'name=like=a'],
    ['a word that is none of the field', 'state==GONE'],
    ['a time that is none', 'createdAt=gt=yesterday'],
    ['a time out of range', 'createdAt=gt=2026-13-40'],
    ['no comparison', 'name'],
    ['an open parenthesis', '(name==a'],
    ['a NUL', 'name==a\u0000b'],
    ['many wildcards', 'name==*a*a*a*a*a*'],
    ['deep parentheses', `${'('.repeat(9)}name==a${')'.repeat(9)}`],
    ['a bomb of parentheses', '('.repeat(1_999)],
    ['many comparisons', Array.from({ length: 33 }, () => 'name==a').join(',')],
    ['many values', `name=in=(${Array.from({ length: 101 }, () => 'a').join(',')})`],
    ['too many characters', `name==${'a'.repeat(2_000)}`],
    ['a storm of quotes', `name=="${'\\"'.repeat(900)}`],
  ])('with %s is answered 400, quickly', async (_, filter) => {
    const started = performance.now();
    const answer = await list({ filter });
    expect(answer).toMatchObject({ status: 400, body: { errors: [{ parameter: 'filter' }] } });
    expect(performance.now() - started).toBeLessThan(1_000);
  });

  test.each([
    ['/v1/templates', 'name==a*'],
    ['/v1/claims', 'template==a;revoked==false;createdAt=gt=2026-01-01'],
    ['/v1/claims', 'certificateId==abc'],
    ['/v1/enrolments', 'claimId==01a20896-8f95-70b1-b10c-3ab41f51551f;state=in=(ISSUED,LAPSED)'],
    ['/v1/enrolments', 'template==a,certificateId==b;createdAt=le=2030-01-01'],
    ['/v1/certificates', 'kind==claim;state!=REVOKED;issuedAt=ge=2026-01-01,serial==00'],
    ['/v1/commands', 'device==a-1;finished==false;createdAt=gt=2026-01-01'],
    ['/v1/commands', 'device=in=(a-1,b);createdBy==api-key/x'],
    ['/v1/artifacts', `createdAt=gt=2026-01-01;sha256!=${'aB'.repeat(32)}`],
    ['/v1/release-keys', 'algorithm=in=(ES256,EdDSA);name==a*;revoked==false;id!=x;createdAt=lt=2030-01-01'],
    ['/v1/order-keys', 'state=in=(SIGNING,STANDBY);id!=x;createdAt=lt=2030-01-01'],
    ['/v1/releases', `product==a;version==1.*;artifact==${'00'.repeat(32)};keyId==k;revoked==false;expired==true`],
    ['/v1/rollouts', 'state=in=(RUNNING,PAUSED);name==a*;release==01a20896-8f95-70b1-b10c-3ab41f51551f'],
    ['/v1/rollouts', 'createdBy!=x;createdAt=gt=2026-01-01'],
    ['/v1/audit', 'subject==device/a*;action==device.registered;actor!=x;at=gt=2026-01-01'],
  ])('of %s understands %s', async (path, filter) => {
    expect((await list({ filter }, path)).status).toBe(200);
  });
});
