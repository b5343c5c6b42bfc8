import type { TemplateDefinition } from '../db/schema.ts';
import { refusal } from '../workflows/refusals.ts';

export type Registration = {
  name: string;
  attributes: Record<string, string>;
  configuration: Record<string, string>;
};

const deviceName = /^[A-Za-z0-9][A-Za-z0-9_.:-]{0,62}$/;
const parameterLengthMax = 256;

/**
 * Fills the template with the device's parameters: name, attributes, configuration. Refuses parameters that are missing,
 * too long or hold control characters, and a name that breaks the rule for device names. Those that the template does
 * not know are ignored: existing agents send more than a template may ask for.
 */
export function fillTemplate(definition: TemplateDefinition, parameters: Record<string, string>): Registration {
  const values = new Map(definition.parameters.map((name) => [name, readParameter(name, parameters)]));
  const fill = (text: string) => text.replaceAll(/\$\{([A-Za-z0-9_]+)\}/g, (_, name: string) => values.get(name) ?? '');
  const fillAll = (texts: Record<string, string>) =>
    Object.fromEntries(Object.entries(texts).map(([key, text]) => [key, fill(text)]));

  const name = fill(definition.namePattern);
  if (!deviceName.test(name)) {
    throw refusal('InvalidParameters', 'the parameters make a device name that is not 1 to 63 of A-Z a-z 0-9 _ . : -');
  }
  return { name, attributes: fillAll(definition.attributes), configuration: fillAll(definition.configuration) };
}

function readParameter(name: string, parameters: Record<string, string>): string {
  const value = Object.hasOwn(parameters, name) ? parameters[name] : undefined;
  if (value === undefined || value === '') throw refusal('InvalidParameters', `parameter ${name} is missing`);
  if (value.length > parameterLengthMax) {
    throw refusal('InvalidParameters', `parameter ${name} is longer than ${parameterLengthMax} characters`);
  }
  // oxlint-disable-next-line no-control-regex -- control characters are what is looked for
  if (/[\u0000-\u001f\u007f]/.test(value)) {
    throw refusal('InvalidParameters', `parameter ${name} holds a control character`);
  }
  return value;
}
