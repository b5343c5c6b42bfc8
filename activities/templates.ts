import { deviceNamePattern, isPlain } from '../db/device-rules.ts';
import type { Evidence, Registration, TemplateDefinition } from '../db/enrolment-schema.ts';
import { readDefinition } from '../db/templates.ts';
import { refusal } from '../workflows/refusals.ts';

const parameterLengthMax = 256;
const placeholder = /\$\{([A-Za-z0-9_]+(?:\.[A-Za-z]+)?)\}/g;

/**
 * Fills the template with the device's parameters and with what certificates say of it: name, attributes, configuration.
 * Refuses parameters that are missing, too long or hold control characters, fields that no certificate gave, and a name
 * that breaks the rule for device names. Parameters that the template does not know are ignored: existing agents send
 * more than a template may ask for.
 */
export function fillTemplate(
  definition: TemplateDefinition,
  parameters: Record<string, string>,
  evidence: Evidence = {},
): Registration {
  const values = new Map(definition.parameters.map((name) => [name, readParameter(name, parameters)]));
  const read = (name: string) => (name.includes('.') ? readField(name, evidence) : (values.get(name) ?? ''));
  const fill = (text: string) => text.replaceAll(placeholder, (_, name: string) => read(name));
  const fillAll = (texts: Record<string, string>) =>
    Object.fromEntries(Object.entries(texts).map(([key, text]) => [key, fill(text)]));

  const name = fill(definition.namePattern);
  if (!deviceNamePattern.test(name)) {
    throw refusal('InvalidParameters', 'the parameters make a device name that is not 1 to 63 of A-Z a-z 0-9 _ . : -');
  }
  const { attributes, configuration, groups } = readDefinition(definition);
  return { name, attributes: fillAll(attributes), configuration: fillAll(configuration), groups };
}

/** Whether the template takes the word of the certificate request for something: its names are the device's then. */
export const trustsRequest = ({ namePattern, attributes, configuration }: TemplateDefinition) =>
  [namePattern, ...Object.values(attributes), ...Object.values(configuration)].some((text) =>
    text.includes('${request.'),
  );

/** `manufacturer.<field>` or `request.<field>`, as `api/template-definition.ts` has checked. */
function readField(path: string, { manufacturer, request }: Evidence): string {
  const [source, field = ''] = path.split('.');
  const fields: Record<string, string> = (source === 'manufacturer' ? manufacturer : request) ?? {};
  const value = Object.hasOwn(fields, field) ? fields[field] : undefined;
  if (value) return value;
  const where = source === 'manufacturer' ? "the manufacturer's certificate" : 'the certificate request';
  throw refusal('InvalidParameters', `${where} has no ${field}, or has it twice`);
}

function readParameter(name: string, parameters: Record<string, string>): string {
  const value = Object.hasOwn(parameters, name) ? parameters[name] : undefined;
  if (value === undefined || value === '') throw refusal('InvalidParameters', `parameter ${name} is missing`);
  if (value.length > parameterLengthMax) {
    throw refusal('InvalidParameters', `parameter ${name} is longer than ${parameterLengthMax} characters`);
  }
  if (!isPlain(value)) {
    throw refusal('InvalidParameters', `parameter ${name} holds a control character`);
  }
  return value;
}
