import { z } from '@hono/zod-openapi';
import { fillTemplate, judgeParameters, templateNames } from './job-templates.ts';
import { JsonFault, parseJson } from './json.ts';
import { Problem } from './problem.ts';
import { plainText } from './schemas.ts';

const documentBytesMax = 32 * 1024;
const parameterLengthMax = 4_096;

/** What a job says: a document of one's own, or one of AWS's with parameters in it. */
export const jobContent = {
  document: z
    .union([z.record(z.string(), z.unknown()), z.string()])
    .optional()
    .openapi({
      description:
        'A JSON object, or the text of one, which devices are given byte by byte. `${longhaul:url:<SHA-256>}` in it ' +
        'becomes a short-lived address of that artifact when a device asks',
      example: { operation: 'calibrate', channel: 3 },
    }),
  template: z.enum(templateNames).optional().openapi({ description: 'In place of `document`' }),
  parameters: z
    .record(z.string().max(64), plainText(parameterLengthMax))
    .optional()
    .openapi({
      description: 'Of the template',
      example: { services: 'pump-agent' },
    }),
};

const whole = z.object(jobContent);
export type JobContent = z.infer<typeof whole>;

/** The faults of a content that looks right. */
export function judgeContent(
  { document, template, parameters }: JobContent,
  fault: (path: string[], message: string) => void,
) {
  if ((document === undefined) === (template === undefined))
    fault(['document'], 'a job has either document or template');
  if (parameters !== undefined && template === undefined) fault(['parameters'], 'only a template has parameters');
  if (template === undefined) return;
  for (const { parameter, detail } of judgeParameters(template, parameters ?? {}))
    fault(['parameters', parameter], detail);
}

/** What devices are told by a judged content, with the artifacts whose addresses they ask for. `at` points at the content. */
export function readDocument(content: JobContent, at: string): { document: string; artifacts: string[] } {
  const document = textOf(content);
  if (Buffer.byteLength(document) > documentBytesMax) {
    throw new Problem('too-large', `A document may have ${documentBytesMax} bytes at most.`);
  }
  if (typeof content.document === 'string') checkText(content.document, `${at}/document`);
  return { document, artifacts: listArtifacts(document, `${at}/document`) };
}

function textOf({ document, template, parameters = {} }: JobContent): string {
  if (template !== undefined) return JSON.stringify(fillTemplate(template, parameters));
  return typeof document === 'string' ? document : JSON.stringify(document);
}

function checkText(text: string, pointer: string): void {
  const value = parse(text, pointer);
  if (typeof value !== 'object' || value === null || Array.isArray(value))
    throw refused(pointer, 'it is no JSON object');
}

function parse(text: string, pointer: string): unknown {
  try {
    return parseJson(Buffer.from(text));
  } catch (error) {
    if (error instanceof JsonFault) throw refused(pointer, error.message);
    throw error;
  }
}

const refused = (pointer: string, detail: string) =>
  new Problem('invalid', `The document is not taken: ${detail}.`, { errors: [{ pointer, detail }] });

const placeholder = /\$\{longhaul:([^}]*)\}?/g;
const address = /^url:([0-9a-f]{64})$/;

/** By their SHA-256. */
function listArtifacts(document: string, pointer: string): string[] {
  return [...document.matchAll(placeholder)].map(([all, what = '']) => {
    const [, sha256] = address.exec(what) ?? [];
    if (sha256 !== undefined && all.endsWith('}')) return sha256;
    throw refused(pointer, 'it has a placeholder that is not ${longhaul:url:<64 hexadecimal digits>}');
  });
}
