import { serveJobs } from '../jobs.ts';
import { certificateJobs } from './certificates.ts';
import { commandJobs } from './commands.ts';
import { crowdJobs } from './crowds.ts';
import { enrolmentJobs } from './enrolments.ts';
import { estJobs } from './est.ts';
import { httpJobs } from './http.ts';
import { lifecycleJobs } from './lifecycles.ts';
import { reconnectJobs } from './reconnects.ts';
import { registrationJobs } from './registrations.ts';
import { reportJobs } from './reports.ts';
import { revocationJobs } from './revocations.ts';
import { rotationJobs } from './rotations.ts';

/** The devices, operators and programs that put the load on, in one process for both sides. */
const jobs = {
  ...certificateJobs,
  ...commandJobs,
  ...crowdJobs,
  ...enrolmentJobs,
  ...estJobs,
  ...httpJobs,
  ...lifecycleJobs,
  ...reconnectJobs,
  ...registrationJobs,
  ...reportJobs,
  ...revocationJobs,
  ...rotationJobs,
};

export type LoadJobs = typeof jobs;
serveJobs(jobs);
