import { isRefusal } from './device-connection.ts';
import type { Report } from './device-journal.ts';
import { commandResponseTopic } from './device-topics.ts';

export type Answer = { accepted: true } | { accepted: false; error: string; message: string };

export type ReporterDeps = {
  device: string;
  /** Resolves with the server's acknowledgement; rejects when there will be none. */
  publish: (topic: string, payload: string) => Promise<unknown>;
  /** True when the next report is to get lost on its way. */
  loses: () => boolean;
  settled: (executionId: string, report: Report, answer: Answer) => void;
};

export type Reporter = {
  /** Says it until the server has answered. A newer report of the same execution replaces one that has no answer yet. */
  tell(executionId: string, report: Report): void;
  hear(executionId: string, about: 'accepted' | 'rejected', payload: Buffer): void;
  /** The connection is gone: forget what is unanswered, the journal knows it. */
  close(): void;
};

const answerWithinMs = 5_000;
const answerWithinMaxMs = 60_000;
const passing = /Internal|Throttl|Unavailable|RateExceeded/;

/**
 * Reports over one connection. AWS's command responses carry no token, so there is one in flight per execution, and it
 * counts as answered when both its acknowledgement and the answer are here.
 */
export function openReporter({ device, publish, loses, settled }: ReporterDeps): Reporter {
  const newest = new Map<string, Report>();
  const unanswered = new Map<string, (answer: Answer | undefined) => void>();
  const speaking = new Set<string>();
  const connection = { closed: false };

  async function speak(id: string): Promise<void> {
    let waitMs = answerWithinMs;
    speaking.add(id);
    for (let report = newest.get(id); report && !connection.closed; report = newest.get(id)) {
      const answer = await ask(id, report, waitMs);
      waitMs = answer ? answerWithinMs : Math.min(waitMs * 2, answerWithinMaxMs);
      if (!answer) continue;
      if (newest.get(id) === report) newest.delete(id);
      settled(id, report, answer);
    }
    speaking.delete(id);
  }

  async function ask(id: string, report: Report, waitMs: number): Promise<Answer | undefined> {
    const { promise, resolve } = Promise.withResolvers<Answer | undefined>();
    const timer = setTimeout(resolve, waitMs, undefined);
    unanswered.set(id, resolve);
    const published = loses() ? promise : publish(commandResponseTopic(device, id), JSON.stringify(report));
    const acknowledged = published.then(
      () => true,
      (error: unknown) => {
        resolve(denial(error));
        return false;
      },
    );
    const answer = await promise;
    clearTimeout(timer);
    unanswered.delete(id);
    // Without its acknowledgement an answer may be that to an earlier report.
    if (answer?.accepted && !(await acknowledged)) return undefined;
    return answer;
  }

  return {
    tell(id, report) {
      newest.set(id, report);
      if (!speaking.has(id)) void speak(id);
    },
    hear(id, about, payload) {
      if (about === 'accepted') return unanswered.get(id)?.({ accepted: true });
      const { error, message } = readRejection(payload);
      if (!passing.test(error)) unanswered.get(id)?.({ accepted: false, error, message });
    },
    close() {
      connection.closed = true;
      for (const resolve of unanswered.values()) resolve(undefined);
    },
  };
}

/** MQTT 5 tells a refused publish by a reason code; any other trouble is the connection's, and the report is said again. */
function denial(error: unknown): Answer | undefined {
  return isRefusal(error) ? { accepted: false, error: 'NotAuthorized', message: error.message } : undefined;
}

function readRejection(payload: Buffer): { error: string; message: string } {
  // An answer to a command response as AWS describes it: an object with these two strings.
  const { error, errorMessage }: { error?: string; errorMessage?: string } = JSON.parse(payload.toString());
  return { error: String(error), message: String(errorMessage) };
}
