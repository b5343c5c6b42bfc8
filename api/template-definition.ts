import { z } from '@hono/zod-openapi';
import type { TemplateDefinition } from '../db/schema.ts';
import { attributeName, plainText } from './schemas.ts';

const placeholder = /\$\{([A-Za-z0-9_]+)\}/g;
const literal = /^[A-Za-z0-9_.:-]*$/;
const nameLengthMax = 63;
const entriesMax = 50;

const parameterName = z.string().regex(/^[A-Za-z][A-Za-z0-9_]{0,31}$/, 'a name is 1 to 32 letters, digits and _');
const texts = (lengthMax: number) =>
  z
    .record(attributeName, plainText(lengthMax))
    .refine((record) => Object.keys(record).length <= entriesMax, `there are at most ${entriesMax} of them`);

/** What a device becomes that enrols by the template. `${parameter}` stands for what the device says of itself. */
export const templateDefinition = z
  .strictObject({
    namePattern: z
      .string()
      .min(1)
      .max(200)
      .openapi({ description: 'The device name; `${parameter}` stands for a parameter', example: 'pump-${serial}' }),
    parameters: z.array(parameterName).min(1).max(20),
    attributes: texts(800).default({}),
    lifetimeDays: z.int().min(1).max(3_650).default(365),
    configuration: texts(2_000).default({}).openapi({ description: 'Given to the device as its configuration' }),
    serverMadeKeys: z.boolean().default(false).openapi({ description: 'Whether keys may be made for the device' }),
  })
  .superRefine((definition, context) => {
    const fault = (path: string[], message: string) => context.addIssue({ code: 'custom', path, message });
    const declared = new Set(definition.parameters);
    if (declared.size < definition.parameters.length) fault(['parameters'], 'a parameter is declared twice');
    judgePattern(definition.namePattern, fault);
    for (const { path, text } of textsOf(definition)) {
      const unknown = [...text.matchAll(placeholder)].find(([, name = '']) => !declared.has(name));
      if (unknown) fault(path, `\${${unknown[1]}} is not among the parameters`);
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
