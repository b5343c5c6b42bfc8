import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { factoryVersion, hardware, product, unluckySerial } from './demonstration.ts';
import { createDevice } from './device.ts';
import { readStackFile } from './stack-file.ts';

/**
 * Simulated devices, many in one process, for the stack that a stack file describes. They know the gateway's address, the
 * root certificate and the claim; of the rest of the file they make no use. SIGTERM ends them.
 */
const { values } = parseArgs({
  options: {
    stack: { type: 'string' },
    folder: { type: 'string' },
    count: { type: 'string' },
    /** PEM, the public half: whose manifests they take. */
    'release-key': { type: 'string' },
    /** The same: whose orders they take. */
    'order-key': { type: 'string', multiple: true },
  },
});
const { stack: file = '.longhaul/stack.json', folder = '.longhaul/devices', count = '1' } = values;
const { 'order-key': orderKeys = [] } = values;
const releaseKeys = values['release-key'] === undefined ? [] : [values['release-key']];

const { mqtt, authority, claim } = await readStackFile(file);
const broker = { ...mqtt, ca: await readFile(authority.file, 'utf8') };
const devices = Array.from({ length: Number(count) }, (_, index) => {
  const serial = `pump-${index + 1}`;
  const device = createDevice({
    folder: join(folder, serial),
    mqtt: broker,
    claim,
    template: claim.template,
    parameters: { serial },
    software: { product, hardware, version: factoryVersion, releaseKeys, orderKeys },
    behaviour: { updates: serial === unluckySerial ? 'bad' : 'good' },
  });
  const log = (event: string) => (detail?: unknown) =>
    console.log(JSON.stringify({ at: new Date(), device: device.name() ?? serial, event, detail }));
  device.events
    .on('enrolled', log('enrolled'))
    .on('rotated', log('rotated'))
    .on('connected', log('connected'))
    .on('disconnected', log('disconnected'))
    .on('received', log('received'))
    .on('refused', log('refused'))
    .on('booted', log('booted'))
    .on('job', (job, status, phase) => log('job')({ job, status, phase }))
    .on('jobRefused', (job, code) => log('jobRefused')({ job, code }))
    .on('trouble', ({ message }) => log('trouble')(message));
  return device;
});

for (const device of devices) device.start();
process.once('SIGTERM', () => {
  void Promise.all(devices.map((device) => device.stop()));
});
