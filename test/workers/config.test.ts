import { expect, test } from 'vitest';
import { apiConfig, gatewayConfig, lifecycleConfig } from '../../workers/config.ts';

const good = {
  DATABASE_URL: 'postgres://longhaul@db.example/longhaul',
  GATEWAY_CERTIFICATE_FILE: 'gateway.pem',
  GATEWAY_KEY_FILE: 'gateway.key',
  LONGHAUL_KEY_ENCRYPTION_KEY_FILE: 'key',
  LONGHAUL_FILES_URL: 'https://files.example',
  LONGHAUL_ADDRESS_KEY_FILE: 'address-key',
  LONGHAUL_ORDER_KEYS_FILE: 'order-keys.pem',
  LONGHAUL_ARTIFACTS_FOLDER: 'artifacts',
};

test('a bad environment is refused with every fault at once, each by its variable', () => {
  const bad = { DATABASE_URL: 'mysql://x', GATEWAY_PORT: '70000', GATEWAY_IN_FLIGHT_MAX: 'many', LOG_LEVEL: 'loud' };
  const faults = ['DATABASE_URL', 'GATEWAY_PORT', 'GATEWAY_IN_FLIGHT_MAX', 'LOG_LEVEL', 'GATEWAY_KEY_FILE'];
  for (const fault of faults) expect(() => gatewayConfig(bad)).toThrow(fault);
});

test('no value of the environment is repeated in a fault', () => {
  const bad = { ...good, DATABASE_URL: 'mysql://user:secret@db' };
  expect(() => apiConfig(bad)).toThrow(expect.not.objectContaining({ message: expect.stringContaining('secret') }));
});

test('each limit of the gateway has a variable', () => {
  const { limits } = gatewayConfig({ ...good, GATEWAY_MESSAGE_BYTES_MAX: '1024', GATEWAY_PUBLISHES_PER_SECOND: '5' });
  expect(limits).toMatchObject({ messageBytesMax: 1024, publishesPerSecond: 5, filtersPerSubscribeMax: 8 });
});

test('the direct address is the other one where none is given, and a variable set to nothing is not set', () => {
  expect(lifecycleConfig({ ...good, DATABASE_DIRECT_URL: '' }).databaseDirectUrl).toBe(good.DATABASE_URL);
});

test('a gateway is configured without the key that opens the signer', () => {
  expect(JSON.stringify(gatewayConfig(good))).not.toContain('keyEncryptionKey');
});
