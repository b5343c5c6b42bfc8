import { z } from '@hono/zod-openapi';
import { keyKinds, type TemplateDefinition } from '../db/enrolment-schema.ts';
import { attributeName, groupName, plainText } from './schemas.ts';

const placeholder = /\$\{([A-Za-z0-9_]+(?:\.[A-Za-z]+)?)\}/g;
/** Whose word each is, its name says: the manufacturer's certificate was proven, a request is as good as a parameter. */
const certificateFields = new Set([
  'manufacturer.commonName',
  'manufacturer.serialNumber',
  'manufacturer.organization',
  'manufacturer.organizationalUnit',
  'request.commonName',
  'request.serialNumber',
]);
const literal = /^[A-Za-z0-9_.:-]*$/;
const nameLengthMax = 63;
const entriesMax = 50;

const parameterName = z.string().regex(/^[A-Za-z][A-Za-z0-9_]{0,31}$/, 'a name is 1 to 32 letters, digits and _');
const texts = (lengthMax: number) =>
  z
    .record(attributeName, plainText(lengthMax))
    .refine((record) => Object.keys(record).length <= entriesMax, `there are at most ${entriesMax} of them`);

const hookUrl = z
  .url({ protocol: /^https?$/ })
  .max(2_000)
  .refine((text) => !new URL(text).username && !new URL(text).password, 'it holds credentials')
  .openapi({ example: 'https://factory.example/enrolments' });

/** What a device becomes that enrols by the template. `${parameter}` stands for what the device says of itself. */
export const templateDefinition = z
  .strictObject({
    namePattern: z
      .string()
      .min(1)
      .max(200)
      .openapi({ description: 'The device name; `${parameter}` stands for a parameter', example: 'pump-${serial}' }),
    parameters: z.array(parameterName).max(20),
    attributes: texts(800).default({}),
    lifetimeDays: z.int().min(1).max(3_650).default(365),
    configuration: texts(2_000).default({}).openapi({ description: 'Given to the device as its configuration' }),
    serverMadeKeys: z.boolean().default(false).openapi({ description: 'Whether keys may be made for the device' }),
    groups: z.array(groupName).max(20).default([]).openapi({ description: 'Static groups that the device joins' }),
    keys: z
      .array(z.enum(keyKinds))
      .min(1)
      .max(keyKinds.length)
      .default([...keyKinds])
      .openapi({ description: 'The keys that a device may have' }),
    existing: z.enum(['reject', 'approve', 'replace']).default('approve').openapi({
      description:
        'When a device of the name is enrolled already: refuse, ask an operator, or let the new certificate take the place of the old ones once the device has connected with it',
    }),
    approval: z.boolean().default(false).openapi({ description: 'Whether an operator has to approve of each device' }),
    approvalWithinHours: z
      .int()
      .min(1)
      .max(720)
      .default(72)
      .openapi({ description: 'How long a device waits for an operator, and may then come back for its answer' }),
    hook: z.strictObject({ url: hookUrl }).nullable().default(null).openapi({
      description: 'Asked before each device enrols, signed by Standard Webhooks; only `{"allow": true}` allows',
    }),
  })
  .superRefine((definition, context) => {
    const fault = (path: string[], message: string) => context.addIssue({ code: 'custom', path, message });
    const declared = new Set(definition.parameters);
    if (declared.size < definition.parameters.length) fault(['parameters'], 'a parameter is declared twice');
    judgePattern(definition.namePattern, fault);
    for (const { path, text } of textsOf(definition)) {
      const unknown = [...text.matchAll(placeholder)].find(
        ([, name = '']) => !declared.has(name) && !certificateFields.has(name),
      );
      if (unknown) fault(path, `\${${unknown[1]}} is not among the parameters, nor a field of a certificate`);
      if (text.replaceAll(placeholder, '').includes('${')) fault(path, 'a placeholder is not closed or not a name');
    }
  })
  .openapi('TemplateDefinition');

function judgePattern(pattern: string, fault: (path: string[], message: string) => void): void {
  const fixed = pattern.replaceAll(placeholder, '');
  if (fixed === pattern) fault(['namePattern'], 'without a parameter in it, there could be one device only');
  if (!literal.test(fixed)) fault(['namePattern'], 'beside parameters it holds A-Z a-z 0-9 _ . : - only');
  if (!/^[A-Za-z0-9$]/.test(pattern)) fault(['namePattern'], 'a device name starts with a letter or digit');
  if (fixed.length >= nameLengthMax) fault(['namePattern'], `a device name has at most ${nameLengthMax} characters`);
}

function textsOf({ namePattern, attributes, configuration }: TemplateDefinition) {
  return [
    { path: ['namePattern'], text: namePattern },
    ...entries('attributes', attributes),
    ...entries('configuration', configuration),
  ];
}

const entries = (name: string, record: Record<string, string>) =>
  Object.entries(record).map(([key, text]) => ({ path: [name, key], text }));
