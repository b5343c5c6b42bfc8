import type { ServerResponse } from 'node:http';

/** Every no of the files' server. They tell a device what to do, and a stranger nothing. */
const refusals = {
  'not-found': [404, 'There is no such thing', 'Files are under /artifacts/.'],
  'method-not-allowed': [405, 'The method is not taken', 'Files are fetched by GET, and asked for by HEAD.'],
  'address-refused': [403, 'The address is refused', 'It is not one that was given out: describe the job for another.'],
  'address-expired': [403, 'The address has expired', 'Describe the job for another; what was fetched stays good.'],
  'device-refused': [403, 'The device is refused', 'It may not fetch anything.'],
  'certificate-refused': [
    403,
    'The certificate is refused',
    'The address was given to another, or it may not be used.',
  ],
  'job-ended': [403, 'The job has ended', 'The device has nothing to fetch for it any more.'],
  changed: [412, 'The content is another', 'Its entity tag is its digest.'],
  unsatisfiable: [416, 'The range is refused', 'It is not within the content, or asks for it in too many pieces.'],
  gone: [404, 'The content is not there', 'It was taken out of the store.'],
  busy: [503, 'Too many downloads', 'Come back later.'],
  unavailable: [503, 'Something that is needed is away', 'Come back later.'],
} as const satisfies Record<string, readonly [status: number, title: string, detail: string]>;

export type RefusalName = keyof typeof refusals;

/** A problem (RFC 9457), as the API answers them. */
export function refuse(response: ServerResponse, name: RefusalName, headers: Record<string, string> = {}): void {
  const [status, title, detail] = refusals[name];
  const body = JSON.stringify({ type: `urn:longhaul:problem:${name}`, title, status, detail });
  response.writeHead(status, {
    'Content-Type': 'application/problem+json',
    'Content-Length': Buffer.byteLength(body),
    'Cache-Control': 'no-store',
    ...(status === 503 && { 'Retry-After': '2' }),
    ...headers,
  });
  response.end(response.req.method === 'HEAD' ? undefined : body);
}
