import { serveJobs } from '../jobs.ts';
import { startBroker, startKickingBroker, startPlainBroker, startTlsServer } from './broker.ts';
import { startSigningServer } from './est.ts';
import { startHttp } from './http.ts';

/** The baselines that are servers; each job starts one and returns its port. */
const jobs = { startBroker, startKickingBroker, startPlainBroker, startTlsServer, startHttp, startSigningServer };

export type BareJobs = typeof jobs;
serveJobs(jobs);
