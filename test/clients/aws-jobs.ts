import type { iotjobs } from 'aws-iot-device-sdk-v2';
import { ask, orModeledError, qos } from './aws-ask.ts';
import type { AwsClient } from './aws-device.ts';

export type Update = Omit<iotjobs.model.UpdateJobExecutionRequest, 'thingName' | 'jobId'>;

/** Jobs as a program of that thing sees them. A rejected answer is thrown as it came: `code`, `executionState`, … */
export type AwsJobs = {
  pending(): Promise<iotjobs.model.GetPendingJobExecutionsResponse>;
  startNext(statusDetails?: Record<string, string>): Promise<iotjobs.model.StartNextJobExecutionResponse>;
  describe(jobId: string): Promise<iotjobs.model.DescribeJobExecutionResponse>;
  update(jobId: string, update: Update): Promise<iotjobs.model.UpdateJobExecutionResponse>;
  /** What `notify` and `notify-next` have told since this was called, in order each. */
  listen(): Promise<Heard>;
};

export type Heard = {
  changed: iotjobs.model.JobExecutionsChangedEvent[];
  next: iotjobs.model.NextJobExecutionChangedEvent[];
};

/** The V1 client: subscribes to both answers, publishes, and is called back. */
export function jobsV1(client: AwsClient, thingName: string): AwsJobs {
  const jobs = client.jobsV1();

  return {
    pending: () =>
      ask<iotjobs.model.GetPendingJobExecutionsResponse>(
        (answered) => jobs.subscribeToGetPendingJobExecutionsAccepted({ thingName }, qos, answered),
        (answered) => jobs.subscribeToGetPendingJobExecutionsRejected({ thingName }, qos, answered),
        () => jobs.publishGetPendingJobExecutions({ thingName }, qos),
      ),
    startNext: (statusDetails) =>
      ask<iotjobs.model.StartNextJobExecutionResponse>(
        (answered) => jobs.subscribeToStartNextPendingJobExecutionAccepted({ thingName }, qos, answered),
        (answered) => jobs.subscribeToStartNextPendingJobExecutionRejected({ thingName }, qos, answered),
        () => jobs.publishStartNextPendingJobExecution({ thingName, ...(statusDetails && { statusDetails }) }, qos),
      ),
    describe: (jobId) =>
      ask<iotjobs.model.DescribeJobExecutionResponse>(
        (answered) => jobs.subscribeToDescribeJobExecutionAccepted({ thingName, jobId }, qos, answered),
        (answered) => jobs.subscribeToDescribeJobExecutionRejected({ thingName, jobId }, qos, answered),
        () => jobs.publishDescribeJobExecution({ thingName, jobId }, qos),
      ),
    update: (jobId, update) =>
      ask<iotjobs.model.UpdateJobExecutionResponse>(
        (answered) => jobs.subscribeToUpdateJobExecutionAccepted({ thingName, jobId }, qos, answered),
        (answered) => jobs.subscribeToUpdateJobExecutionRejected({ thingName, jobId }, qos, answered),
        () => jobs.publishUpdateJobExecution({ thingName, jobId, ...update }, qos),
      ),
    async listen() {
      const heard: Heard = { changed: [], next: [] };
      await jobs.subscribeToJobExecutionsChangedEvents(
        { thingName },
        qos,
        (_, event) => event && heard.changed.push(event),
      );
      await jobs.subscribeToNextJobExecutionChangedEvents(
        { thingName },
        qos,
        (_, event) => event && heard.next.push(event),
      );
      return heard;
    },
  };
}

/** The V2 client: one promise per request, and streams. */
export function jobsV2(client: AwsClient, thingName: string): AwsJobs {
  const jobs = client.jobsV2();
  return {
    pending: () => jobs.getPendingJobExecutions({ thingName }).catch(orModeledError),
    startNext: (statusDetails) =>
      jobs.startNextPendingJobExecution({ thingName, ...(statusDetails && { statusDetails }) }).catch(orModeledError),
    describe: (jobId) => jobs.describeJobExecution({ thingName, jobId }).catch(orModeledError),
    update: (jobId, update) => jobs.updateJobExecution({ thingName, jobId, ...update }).catch(orModeledError),
    async listen() {
      const heard: Heard = { changed: [], next: [] };
      const changed = jobs.createJobExecutionsChangedStream({ thingName });
      const next = jobs.createNextJobExecutionChangedStream({ thingName });
      changed.on('incomingPublish', ({ message }) => void heard.changed.push(message));
      next.on('incomingPublish', ({ message }) => void heard.next.push(message));
      const subscribed = [changed, next].map(
        (stream) => new Promise((resolve) => stream.on('subscriptionStatus', resolve)),
      );
      for (const stream of [changed, next]) stream.open();
      await Promise.all(subscribed);
      return heard;
    },
  };
}
