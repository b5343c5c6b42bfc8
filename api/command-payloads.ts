import { z } from '@hono/zod-openapi';
import type { CommandRow } from '../db/commands.ts';
import { JsonFault, parseJson } from './json.ts';
import { Problem } from './problem.ts';
import { deviceName } from './schemas.ts';

const payloadBytesMax = 64 * 1024;
const timeoutSecondsMax = 30 * 86_400;
const targetsMax = 1_000;
const jsonType = /^application\/(?:[\w.-]+\+)?json$/;

const contentType = z
  .string()
  .max(100)
  .regex(/^[a-z0-9][a-z0-9.+_-]*\/[a-z0-9][a-z0-9.+_-]*$/, 'a media type in lower case, without parameters');

export const newCommand = z
  .strictObject({
    targets: z
      .union([deviceName, z.array(deviceName).min(1).max(targetsMax)])
      .openapi({ description: 'One device or a list of them, by name', example: ['pump-17'] }),
    payload: z
      .unknown()
      .optional()
      .openapi({ description: 'Any JSON value', example: { action: 'reboot' } }),
    payloadBase64: z.base64().optional().openapi({ description: 'In place of `payload`: any bytes' }),
    contentType: contentType.default('application/json'),
    timeoutSeconds: z.int().min(1).max(timeoutSecondsMax).default(60),
  })
  .superRefine((command, context) => {
    const fault = (path: (string | number)[], message: string) => context.addIssue({ code: 'custom', path, message });
    if ((command.payload === undefined) === (command.payloadBase64 === undefined)) {
      fault(['payload'], 'a command has either payload or payloadBase64');
    }
    if (command.payload !== undefined && !jsonType.test(command.contentType)) {
      fault(['contentType'], 'what is not JSON goes into payloadBase64');
    }
    const twice = repeated([command.targets].flat());
    if (twice !== undefined) fault(['targets', twice], 'the device is named twice');
  })
  .openapi('NewCommand');

export type CommandRequest = z.infer<typeof newCommand>;

/** The position of the first name that was there before, whatever its case. */
function repeated(names: string[]): number | undefined {
  const seen = new Set<string>();
  const position = names.findIndex((name) => seen.size === seen.add(name.toLowerCase()).size);
  return position === -1 ? undefined : position;
}

type Payload = Pick<CommandRow, 'payload' | 'format' | 'contentType'>;

/** The bytes that the device will be sent, and by which of the three topics. */
export function readPayload({ payload: value, payloadBase64, contentType: type }: CommandRequest): Payload {
  const payload =
    payloadBase64 === undefined ? Buffer.from(JSON.stringify(value)) : Buffer.from(payloadBase64, 'base64');
  if (payload.length > payloadBytesMax) {
    throw new Problem('too-large', `A payload may have ${payloadBytesMax} bytes at most.`);
  }
  const format = jsonType.test(type) ? 'json' : type === 'application/cbor' ? 'cbor' : 'other';
  if (format === 'json' && payloadBase64 !== undefined) checkJson(payload);
  return { payload, format, contentType: type };
}

function checkJson(payload: Uint8Array): void {
  try {
    parseJson(payload);
  } catch (error) {
    if (!(error instanceof JsonFault)) throw error;
    const detail = `its content type is JSON, but ${error.message}`;
    throw new Problem('invalid', 'The payload is not what it says.', {
      errors: [{ pointer: '/payloadBase64', detail }],
    });
  }
}

export function showPayload({ format, payload }: Payload): { payload?: unknown; payloadBase64?: string } {
  const bytes = Buffer.from(payload);
  if (format !== 'json') return { payloadBase64: bytes.toString('base64') };
  // Bytes of this format were checked or written here.
  return { payload: JSON.parse(bytes.toString()) as unknown };
}
