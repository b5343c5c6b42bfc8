import { connect } from '../db/client.ts';
import { migrate } from '../db/migrate.ts';
import { ensureAdministrator } from './administrator.ts';
import { ensureAuthorities, ensureTrustBundle } from './authorities.ts';
import { initConfig } from './config.ts';
import { ensureKey } from './keys.ts';
import { ensureOrderKeys } from './order-keys.ts';
import { ensureRootList } from './revocation-lists.ts';
import { ensureServerCertificate } from './server-certificate.ts';
import { openSigner } from './signer.ts';

/**
 * What must be there before the other processes start: the schema, the authorities, one administrator key, and, where
 * their files are named, the gateway's server certificate, the key of the files' addresses and the keys of orders. Running
 * it again changes nothing that is there. Prints one line of JSON; the administrator's key stands in it the first time only.
 */
const config = initConfig(process.env);
await migrate(config.databaseDirectUrl);
const db = connect({ url: config.databaseDirectUrl, max: 1, applicationName: 'longhaul init' });
await ensureAuthorities(db, config);
await ensureTrustBundle(db);
await ensureRootList(db, config.rootKeyFile);
const authority = await openSigner(db, config.signer);
if (config.addressKeyFile) await ensureKey(config.addressKeyFile);
if (config.orderKeysFile) await ensureOrderKeys(db, config.orderKeysFile);
if (config.serverCertificate) await ensureServerCertificate(authority, config.serverCertificate);
const administratorKey = await ensureAdministrator(db, config.administratorKeyFile);
await db.$client.end();
process.stdout.write(`${JSON.stringify({ administratorKey, rootCertificatePem: authority.rootPem })}\n`);
