import { readdirSync, readFileSync } from 'node:fs';
import { dirname, join, normalize, relative } from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, test } from 'vitest';

const root = fileURLToPath(new URL('..', import.meta.url));
const folders = [
  'workflows',
  'activities',
  'doors',
  'workers',
  'gateway',
  'api',
  'db',
  'files',
  'pki',
  'bin',
  'embedded',
  'bench',
  'test',
];

type Source = { path: string; text: string; imports: { from: string; typeOnly: boolean }[] };

const sources: Source[] = folders.flatMap((folder) =>
  readdirSync(join(root, folder), { recursive: true, encoding: 'utf8' })
    .filter((name) => name.endsWith('.ts') || name.endsWith('.mjs'))
    .map((name) => readSource(join(folder, name))),
);
const product = sources.filter(({ path }) => !/^(test|bench)\//.test(path));

function readSource(path: string): Source {
  const text = readFileSync(join(root, path), 'utf8');
  const imports = [...text.matchAll(/^(?:import|export) (type )?[^;]*?from '([^']+)';/gms)].map((match) => ({
    from: match[2]?.startsWith('.') ? normalize(join(dirname(path), match[2])) : (match[2] ?? ''),
    typeOnly: match[1] !== undefined,
  }));
  return { path, text, imports };
}

const folderOf = (path: string) => path.split('/')[0] ?? '';

/** Which folders a folder may import at run time; `workers`, `bin`, `embedded`, `bench` and the entry files compose. */
const mayImport: Record<string, string[]> = {
  db: ['db'],
  pki: ['pki'],
  files: ['files', 'db'],
  workflows: ['workflows'],
  activities: ['activities', 'db', 'files', 'pki', 'workflows'],
  doors: ['doors', 'api', 'db', 'pki', 'workflows'],
  gateway: ['gateway', 'doors', 'db', 'files', 'pki', 'workflows'],
  api: ['api', 'db', 'files', 'pki', 'workflows'],
};
const entries = ['api/server.ts'];

describe('dependencies', () => {
  test('point one way', () => {
    const wrong = product.flatMap(({ path, imports }) => {
      const allowed = mayImport[folderOf(path)];
      if (!allowed || entries.includes(path)) return [];
      return imports
        .filter(({ from }) => folders.includes(folderOf(from)) && !allowed.includes(folderOf(from)))
        .filter(({ typeOnly }) => !(typeOnly && folderOf(path) === 'workflows'))
        .map(({ from }) => `${path} imports ${from}`);
    });
    expect(wrong).toEqual([]);
  });

  test.each([
    ['aedes', ['gateway/listener.ts', 'gateway/persistence.ts']],
    ['@peculiar/x509', ['pki/x509.ts']],
    ['reflect-metadata', ['pki/x509.ts']],
    ['mqtt', ['embedded/device-connection.ts']],
    ['csv-parse/sync', ['files/csv.ts']],
    ['pkcs11js', ['pki/pkcs11.ts']],
    ['jose', ['pki/manifests.ts', 'pki/release-keys.ts']],
    ['@aws-sdk/client-s3', ['files/s3.ts']],
    ['@aws-sdk/lib-storage', ['files/s3.ts']],
  ])('%s is known to few', (library, knowers) => {
    const importers = product.filter(({ imports }) => imports.some(({ from }) => from === library));
    expect(knowers).toEqual(expect.arrayContaining(importers.map(({ path }) => path)));
  });

  test('nothing impure is known to a workflow', () => {
    const impure = product
      .filter(({ path }) => folderOf(path) === 'workflows')
      .flatMap(({ path, imports }) =>
        imports.filter(({ from }) => /^(node:|zod|drizzle|postgres)/.test(from)).map(() => path),
      );
    expect(impure).toEqual([]);
  });
});

test('every lifecycle is in the bundle', () => {
  const index = readFileSync(join(root, 'workflows/index.ts'), 'utf8');
  const lifecycles = sources
    .filter(({ path, text }) => folderOf(path) === 'workflows' && /^export async function /m.test(text))
    .map(({ path }) => path);
  expect(lifecycles.length).toBeGreaterThan(0);
  for (const path of lifecycles) expect(index).toContain(`'./${relative('workflows', path)}'`);
});

test('every noun of the API has its queries in a file of the same name', () => {
  const manners = [
    'app',
    'server',
    'problem',
    'auth',
    'idempotency',
    'lists',
    'health',
    'filters',
    'cursors',
    'schemas',
  ];
  const nouns = product
    .filter(({ path, text }) => folderOf(path) === 'api' && /Routes\b/.test(text))
    .map(({ path }) => path.slice('api/'.length, -'.ts'.length))
    .filter((noun) => !manners.includes(noun));
  const files = new Set(product.map(({ path }) => path));
  expect(nouns.filter((noun) => !files.has(`db/${noun}.ts`))).toEqual([]);
});

test('every action that the audit knows is recorded somewhere', () => {
  const union = readFileSync(join(root, 'db/audit.ts'), 'utf8');
  const actions = [...union.matchAll(/'([a-z-]+\.[a-z-]+)'/g)].map((match) => match[1] ?? '');
  expect(actions.length).toBeGreaterThan(10);
  const elsewhere = product.filter(({ path }) => path !== 'db/audit.ts').map(({ text }) => text);
  expect(actions.filter((action) => !elsewhere.some((text) => text.includes(`'${action}'`)))).toEqual([]);
});

test('no file is longer than 300 lines', () => {
  const long = sources.filter(({ text }) => text.split('\n').length > 301).map(({ path }) => path);
  expect(long).toEqual([]);
});

test('no folder is called after nothing in particular', () => {
  const vague = sources.filter(({ path }) => /(^|\/)(lib|utils|common|helpers|services)\//.test(path));
  expect(vague.map(({ path }) => path)).toEqual([]);
});
