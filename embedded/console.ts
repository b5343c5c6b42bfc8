import { styleText } from 'node:util';

type Colour = Parameters<typeof styleText>[0];

const colours: Record<string, Colour> = {
  postgres: 'blue',
  temporal: 'magenta',
  ui: 'magenta',
  lifecycle: 'yellow',
  gateway: 'cyan',
  files: 'cyan',
  api: 'green',
  devices: 'white',
};

/** One line about a part or a noun, under its name. Colours only on a terminal and without NO_COLOR. */
export function say(subject: string, text: string): void {
  console.log(`${styleText(colours[subject] ?? 'gray', subject.padEnd(nameWidth))} ${text}`);
}

/** A line that asks for attention. */
export function warn(subject: string, text: string): void {
  say(subject, styleText('red', text));
}

export const strong = (text: string): string => styleText('bold', text);
export const faint = (text: string): string => styleText('dim', text);

const nameWidth = 10;
