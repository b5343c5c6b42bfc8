import { describe, expect, test } from 'vitest';
import { may } from '../../gateway/authorise.ts';
import { isFilter, matchesFilter } from '../../gateway/filters.ts';
import type { Identity } from '../../gateway/identity.ts';

const certificate = { certificateId: 'c'.repeat(64), notAfter: new Date(Date.now() + 3_600_000) };
const session = (identity: Identity, clientId = 'own') => ({ identity, clientId });
const device = session({ kind: 'device', deviceId: 'd', name: 'pump-1', ...certificate });
const claim = session({ kind: 'claim', claimId: 'k', template: 'line', ...certificate });
const service = session({ kind: 'service', name: 'app', ...certificate });

const own = '$aws/commands/things/pump-1/executions';
const jobs = '$aws/things/pump-1/jobs';

describe('a device', () => {
  test.each([
    `${own}/x/response/json`,
    '$aws/commands/clients/own/executions/x/response/json',
    '$aws/things/pump-1/shadow/name/$package/update',
    '$aws/things/pump-1/shadow/name/$package/get',
    '$aws/certificates/create-from-csr/json',
    '$aws/certificates/create-from-csr/cbor',
  ])('may publish to %s', (topic) => {
    expect(may(device, 'publish', topic)).toBe(true);
  });

  test.each([
    '$aws/commands/things/pump-2/executions/x/response/json',
    '$aws/commands/things/PUMP-1/executions/x/response/json',
    '$aws/things/pump-2/shadow/name/$package/update',
    '$aws/things/PUMP-1/shadow/name/$package/update',
    '$aws/things/own/shadow/name/$package/update',
    '$aws/clients/own/shadow/name/$package/update',
    '$aws/things/pump-1/shadow/name/$package/update/accepted',
    '$aws/things/pump-1/shadow/name/other/update',
    '$aws/things/pump-1/shadow/update',
    '$aws/commands/things/pump-1/executions/x/request/json',
    '$aws/commands/clients/other/executions/x/response/json',
    '$aws/things/pump-2/jobs/get',
    '$aws/things/pump-2/jobs/$next/get',
    '$aws/things/PUMP-1/jobs/x/update',
    '$aws/clients/own/jobs/get',
    jobs,
    `${jobs}/x/update/accepted`,
    '$aws/certificates/create/json',
    '$aws/provisioning-templates/line/provision/json',
    '$aws/events/presence/connected/own',
    `${own}/x/response/json/`,
    `/${own}/x/response/json`,
    `${own}//response/json`.replace('pump-1', ''),
    '$aws',
    '$SYS/broker',
    'telemetry',
    '',
  ])('may not publish to %s', (topic) => {
    expect(may(device, 'publish', topic)).toBe(false);
  });

  test.each([
    `${own}/+/request/json`,
    `${own}/+/request/+`,
    `${own}/+/request`,
    `${own}/+/response/accepted/json`,
    `${own}/+/response/+/json`,
    `${own}/#`,
    '$aws/commands/things/pump-1/#',
    '$aws/things/pump-1/shadow/name/$package/update/accepted',
    '$aws/things/pump-1/shadow/name/$package/get/+',
    '$aws/things/pump-1/#',
    '$aws/commands/clients/own/executions/+/request/json',
    `${jobs}/notify`,
    `${jobs}/notify-next`,
    `${jobs}/get/+`,
    `${jobs}/start-next/+`,
    `${jobs}/$next/get/+`,
    `${jobs}/x/get/accepted`,
    `${jobs}/+/update/accepted`,
    `${jobs}/+/update/rejected`,
    `${jobs}/#`,
    '$aws/certificates/create-from-csr/json/+',
  ])('may subscribe to %s', (filter) => {
    expect(may(device, 'subscribe', filter)).toBe(true);
  });

  test.each([
    '#',
    '+/#',
    '+/commands/things/pump-1/#',
    '$aws/#',
    '$aws/commands/#',
    '$aws/commands/things/#',
    '$aws/commands/things/+/executions/+/request/json',
    '$aws/commands/+/+/executions/+/request/json',
    '$aws/commands/things/pump-2/executions/+/request/json',
    '$aws/things/pump-2/shadow/name/$package/update/accepted',
    '$aws/things/+/shadow/name/$package/update/accepted',
    '$aws/things/+/#',
    '$aws/things/#',
    '$aws/+/+/shadow/#',
    '$aws/certificates/create/json/accepted',
    '$aws/events/presence/connected/+',
    `${own}/+/response/json`,
  ])('may not subscribe to %s', (filter) => {
    expect(may(device, 'subscribe', filter)).toBe(false);
  });

  test('with a wildcard for a client id hears nobody else', () => {
    const odd = { ...device, clientId: '+' };
    expect(may(odd, 'subscribe', '$aws/commands/clients/+/executions/+/request/json')).toBe(false);
  });

  test('is told of itself and of nobody else', () => {
    expect(may(device, 'receive', `${own}/x/request/json`)).toBe(true);
    expect(may(device, 'receive', '$aws/commands/things/pump-2/executions/x/request/json')).toBe(false);
    expect(may(device, 'receive', '$aws/certificates/create-from-csr/json/accepted')).toBe(true);
    expect(may(device, 'receive', '$aws/certificates/create/json/accepted')).toBe(false);
  });
});

test('a claim may enrol, and nothing else', () => {
  expect(may(claim, 'publish', '$aws/certificates/create-from-csr/json')).toBe(true);
  expect(may(claim, 'publish', '$aws/provisioning-templates/line/provision/json')).toBe(true);
  expect(may(claim, 'subscribe', '$aws/certificates/create-from-csr/json/+')).toBe(true);
  expect(may(claim, 'receive', '$aws/certificates/create-from-csr/json/accepted')).toBe(true);
  expect(may(claim, 'publish', `${own}/x/response/json`)).toBe(false);
  for (const filter of ['#', '$aws/#', '$aws/+/#']) expect(may(claim, 'subscribe', filter)).toBe(false);
  expect(may(claim, 'subscribe', `${own}/+/request/json`)).toBe(false);
  expect(may(claim, 'subscribe', '$aws/commands/clients/own/executions/+/request/json')).toBe(false);
  expect(may(claim, 'subscribe', '$aws/events/presence/connected/+')).toBe(false);
});

test('a service hears of presence, and says nothing', () => {
  expect(may(service, 'subscribe', '$aws/events/presence/connected/+')).toBe(true);
  expect(may(service, 'subscribe', '$aws/events/presence/#')).toBe(true);
  expect(may(service, 'receive', '$aws/events/presence/disconnected/x')).toBe(true);
  expect(may(service, 'subscribe', `${own}/+/request/json`)).toBe(false);
  expect(may(service, 'publish', '$aws/events/presence/connected/x')).toBe(false);
  expect(may(service, 'publish', `${own}/x/response/json`)).toBe(false);
});

describe('a filter', () => {
  test.each([
    ['a/b', 'a/b', true],
    ['a/+', 'a/b', true],
    ['a/+', 'a/b/c', false],
    ['a/+', 'a', false],
    ['a/#', 'a', true],
    ['a/#', 'a/b/c', true],
    ['#', 'a/b', true],
    ['#', '$aws/a', false],
    ['+/a', '$aws/a', false],
    ['$aws/+', '$aws/a', true],
    ['a/+/c', 'a//c', true],
  ])('%s matches %s: %s', (filter, topic, matches) => {
    expect(matchesFilter(filter, topic)).toBe(matches);
  });

  test.each(['a/b+', 'a/#/b', 'a#', '+a/b', 'a\0'])('%s is none', (filter) => {
    expect(isFilter(filter)).toBe(false);
  });
});
