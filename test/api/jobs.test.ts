import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { makeApi } from '../support/api.ts';
import { makeDevices, startRollouts } from '../support/rollouts.ts';

let rig: Awaited<ReturnType<typeof startRollouts>>;
let api: Awaited<ReturnType<typeof makeApi>>;
const sha256 = '5a'.repeat(32);
beforeAll(async () => {
  rig = await startRollouts();
  api = await makeApi(rig.db);
  await makeDevices(rig.db, 3, { version: '1.0.0' });
  await rig.db.$client.unsafe(`insert into artifacts (sha256, size, created_by) values ('\\x${sha256}', 1, 'test')`);
});
afterAll(() => rig[Symbol.asyncDispose]());

const targets = { filter: 'name==*' };
const create = (part: object) => api.ask('POST', '/v1/jobs', { targets, ...part });
const documentOf = async (part: object) => {
  const { status, body } = await create(part);
  expect(status).toBe(202);
  const [row] = await rig.db.$client.unsafe(`select document from jobs where id = '${body.id}'`);
  return String(row?.['document']);
};

describe('a job', () => {
  test('is a rollout of its document, under one id, to everyone at once', async () => {
    const { status, body } = await create({ document: { operation: 'calibrate' }, priority: 3 });
    expect(status).toBe(202);
    expect(body).toMatchObject({
      document: { operation: 'calibrate' },
      rollout: {
        id: body.id,
        jobId: body.id,
        name: 'job',
        release: null,
        plan: { waves: [{}], gate: { succeededPercent: 0, soakSeconds: 0 }, priority: 3 },
        lifecycle: { workflowId: `run-rollout/${body.id}` },
      },
    });
    expect((await api.ask('GET', `/v1/jobs/${body.id}`)).body).toEqual(body);
    expect((await api.ask('GET', `/v1/rollouts/${body.id}`)).body).toMatchObject({ id: body.id, state: 'CREATING' });
    expect((await api.ask('GET', `/v1/jobs/${crypto.randomUUID()}`)).status).toBe(404);
    expect((await api.ask('GET', `/v1/jobs/${crypto.randomUUID()}/executions`)).status).toBe(404);
  });

  test('given as a text is kept byte by byte', async () => {
    const text = `{ "b":1.0,\n\t"a" : "\\u00e4ö",  "url":"\${longhaul:url:${sha256}}" }`;
    expect(await documentOf({ document: text })).toBe(text);
  });

  test('finishes with the verdicts that it gets, and shows each device that was told', async () => {
    const { id } = (await create({ document: { do: 'it' }, name: 'mixed' })).body;
    await rig.ledger.enlist(id);
    await rig.ledger.review(id);
    const [good = '', bad = '', silent = ''] = await rig.crowd.busy();
    await rig.crowd.succeed([good]);
    await rig.crowd.end([bad], 'FAILED');
    await rig.ledger.review(id);
    const list = async (query = '') => (await api.ask('GET', `/v1/jobs/${id}/executions${query}`)).body.items;
    expect(await list('?filter=status==QUEUED')).toMatchObject([{ deviceId: silent, attempt: 1, version: 1 }]);
    expect(new Set((await list()).map(({ status }) => status))).toEqual(new Set(['FAILED', 'QUEUED', 'SUCCEEDED']));
    expect(await list('?filter=device==DEVICE-00000')).toHaveLength(1);
    await rig.crowd.end([silent], 'REJECTED');
    expect(await rig.ledger.review(id)).toMatchObject({ status: 'FINISHED' });
    await api.ask('POST', `/v1/rollouts/${id}/retry`, { kinds: ['FAILED'] });
    await rig.ledger.review(id);
    expect(await list('?filter=status==QUEUED')).toMatchObject([{ deviceId: bad, attempt: 2 }]);
    expect(await list('?filter=status==FAILED')).toEqual([]);
  });

  test.each([
    ['/document', {}],
    ['/document', { document: {}, template: 'AWS-Reboot' }],
    ['/document', { document: 'null' }],
    ['/document', { document: '"text"' }],
    ['/document', { document: '{"a":12345678901234567890}' }],
    ['/document', { document: `{"a":${'['.repeat(33)}${']'.repeat(33)}}` }],
    ['/document', { document: { url: `\${longhaul:url:${'0'.repeat(64)}}` } }],
    ['/document', { document: { url: '${longhaul:file:../../etc/passwd}' } }],
    ['/parameters', { document: {}, parameters: {} }],
    ['/release', { document: {}, release: crypto.randomUUID() }],
    ['/targets/devices/0', { document: {}, targets: { devices: ['absent'] } }],
    ['/template', { template: 'AWS-Format-Disk' }],
    ['/parameters/downloadUrl', { template: 'AWS-Download-File', parameters: { filePath: '/tmp/a' } }],
    ['/parameters/command', { template: 'AWS-Run-Command' }],
    ['/parameters/command', { template: 'AWS-Run-Command', parameters: { command: '' } }],
    ['/parameters/pathToHandler', { template: 'AWS-Run-Command', parameters: { command: 'ls', pathToHandler: '/' } }],
    ['/parameters/constructor', { template: 'AWS-Reboot', parameters: { constructor: 'x' } }],
    ['/parameters/services', { template: 'AWS-Stop-Application', parameters: { services: 1 } }],
    ['/parameters/services', { template: 'AWS-Stop-Application', parameters: { services: 'a\u0000b' } }],
  ])('with a bad %s is refused: %j', async (pointer, part) => {
    const { status, body } = await create(part);
    expect([status, body.errors?.map((error) => error.pointer)]).toEqual([422, expect.arrayContaining([pointer])]);
  });

  test('with a document over its limit is answered 413', async () => {
    expect((await create({ document: `{"a":"${'ö'.repeat(16 * 1024)}"}` })).status).toBe(413);
  });
});

describe('a managed template', () => {
  const handler = (name: string, program: string, args: string[], more: object = {}) => ({
    version: '1.0',
    steps: [
      {
        action: {
          name,
          type: 'runHandler',
          input: { handler: program, ...(args.length > 0 && { args }), path: '' },
          runAsUser: '',
          ...more,
        },
      },
    ],
  });

  test.each([
    ['AWS-Reboot', undefined, handler('Reboot', 'reboot.sh', [])],
    [
      'AWS-Download-File',
      { filePath: '/srv/a', downloadUrl: `\${longhaul:url:${sha256}}` },
      handler('Download-File', 'download-file.sh', [`\${longhaul:url:${sha256}}`, '/srv/a']),
    ],
    ['AWS-Install-Application', { packages: 'a b' }, handler('Install-Application', 'install-packages.sh', ['a b'])],
    ['AWS-Remove-Application', { packages: 'a' }, handler('Remove-Application', 'remove-packages.sh', ['a'])],
    ['AWS-Start-Application', { services: 'a' }, handler('Start-Application', 'start-services.sh', ['a'])],
    ['AWS-Stop-Application', { services: 'a' }, handler('Stop-Application', 'stop-services.sh', ['a'])],
    [
      'AWS-Restart-Application',
      { services: '","x":"', runAsUser: 'pump' },
      handler('Restart-Application', 'restart-services.sh', ['","x":"'], { runAsUser: 'pump' }),
    ],
    [
      'AWS-Run-Command',
      { command: 'echo,${aws:iot:parameter:runAsUser}', runAsUser: 'pump' },
      {
        version: '1.0',
        steps: [
          {
            action: {
              name: 'Run-Command',
              type: 'runCommand',
              input: { command: 'echo,${aws:iot:parameter:runAsUser}' },
              runAsUser: 'pump',
            },
          },
        ],
      },
    ],
  ])(
    '%s is filled in when the job is made, and a parameter is nothing but a value',
    async (template, parameters, document) => {
      expect(JSON.parse(await documentOf({ template, parameters }))).toEqual(document);
    },
  );
});
