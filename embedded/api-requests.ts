export type Api = { url: string; token: string };

/** As any operator would ask; a body of bytes goes as it is. */
export function request(
  { url, token }: Api,
  method: string,
  path: string,
  body?: object,
  signal?: AbortSignal,
): Promise<Response> {
  const isBytes = body instanceof Uint8Array;
  const type = isBytes ? 'application/octet-stream' : 'application/json';
  return fetch(new URL(path, url), {
    method,
    headers: { authorization: `Bearer ${token}`, ...(body && { 'content-type': type }) },
    ...(body && { body: isBytes ? new Blob([Uint8Array.from(body)]) : JSON.stringify(body) }),
    ...(signal && { signal }),
  });
}

export const refused = async (what: string, answer: Response): Promise<Error> =>
  new Error(`the API refused ${what}: ${answer.status} ${await answer.text()}`);
