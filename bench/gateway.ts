import { runGateway } from '../workers/gateway-process.ts';
import { readFingerprint } from './door.ts';

/** `workers/gateway.ts` with a door besides that needs no TLS, on 127.0.0.1 and the port that is its argument. */
await runGateway({ plainDoor: { port: Number(process.argv[2]), identify: readFingerprint } });
