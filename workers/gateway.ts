import { runGateway } from './gateway-process.ts';

/** The process that devices talk to. */
await runGateway();
