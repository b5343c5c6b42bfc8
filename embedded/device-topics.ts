/** The public contract as a device knows it: AWS IoT's own topics, written out from their documents. */
const reserved = '$aws';

export const createFromCsrTopic = `${reserved}/certificates/create-from-csr/json`;

export const provisionTopic = (template: string) => `${reserved}/provisioning-templates/${template}/provision/json`;

const executions = (device: string) => `${reserved}/commands/things/${device}/executions`;

export const commandFilters = (device: string): string[] => [
  commandRequestTopic(device, '+'),
  `${executions(device)}/+/response/accepted/json`,
  `${executions(device)}/+/response/rejected/json`,
];

export const commandRequestTopic = (device: string, executionId: string) =>
  `${executions(device)}/${executionId}/request/json`;

export const commandResponseTopic = (device: string, executionId: string) =>
  `${executions(device)}/${executionId}/response/json`;

/** What a message about a command is, and to which execution it belongs; undefined for any other topic. */
export function readCommandTopic(
  device: string,
  topic: string,
): { executionId: string; about: 'request' | 'accepted' | 'rejected' } | undefined {
  const prefix = `${executions(device)}/`;
  if (!topic.startsWith(prefix)) return undefined;
  const [executionId, ...rest] = topic.slice(prefix.length).split('/');
  if (!executionId) return undefined;
  const about = kinds[rest.join('/')];
  return about && { executionId, about };
}

const kinds: Record<string, 'request' | 'accepted' | 'rejected' | undefined> = {
  'request/json': 'request',
  'response/accepted/json': 'accepted',
  'response/rejected/json': 'rejected',
};

const jobs = (device: string) => `${reserved}/things/${device}/jobs`;

export const notifyNextTopic = (device: string) => `${jobs(device)}/notify-next`;

export const startNextTopic = (device: string) => `${jobs(device)}/start-next`;

/** `$next` is the job that is next. */
export const describeTopic = (device: string, jobId: string) => `${jobs(device)}/${jobId}/get`;

export const updateTopic = (device: string, jobId: string) => `${jobs(device)}/${jobId}/update`;

/** The reserved named shadow that says which software a device runs. */
export const packageTopic = (device: string) => `${reserved}/things/${device}/shadow/name/$package/update`;

export const jobFilters = (device: string): string[] => [
  notifyNextTopic(device),
  `${describeTopic(device, '$next')}/accepted`,
  `${describeTopic(device, '$next')}/rejected`,
  `${startNextTopic(device)}/+`,
  `${updateTopic(device, '+')}/accepted`,
  `${updateTopic(device, '+')}/rejected`,
  `${packageTopic(device)}/accepted`,
  `${packageTopic(device)}/rejected`,
];
