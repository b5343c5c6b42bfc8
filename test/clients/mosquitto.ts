import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { Credentials } from './aws-device.ts';

export type Version = 'mqttv311' | 'mqttv5';
export type Ran = { code: number | null; output: string };

export type Mosquitto = {
  /** `mosquitto_pub` with QoS 1; the payload goes through its standard input, byte by byte as given. */
  publish(version: Version, topic: string, payload: Buffer | string, ...options: string[]): Promise<Ran>;
  /** `mosquitto_rr`: asks, and prints what comes on the other topic; ends with the first answer. */
  ask(version: Version, topic: string, answerTopic: string, payload: string, ...options: string[]): Promise<Ran>;
  /** `mosquitto_sub`, until it is told to end or nothing was granted to it. */
  listen(version: Version, filters: string[], ...options: string[]): Listening;
};

export type Listening = {
  process: ChildProcess;
  /** Everything that it has printed: each message as a line `<topic> <payload>`, and what it says of the protocol. */
  output(): string;
  ended: Promise<Ran>;
};

type Server = { host: string; port: number; ca: string };
let clients = 0;

/** The mosquitto programs with the credentials of one identity. */
export async function asMosquitto(server: Server, credentials: Credentials, folder: string): Promise<Mosquitto> {
  const own = join(folder, `client-${(clients += 1)}`);
  const files = { ca: `${own}-ca.pem`, certificate: `${own}-certificate.pem`, key: `${own}-key.pem` };
  await writeFile(files.ca, server.ca);
  await writeFile(files.certificate, credentials.certificate);
  await writeFile(files.key, credentials.privateKey, { mode: 0o600 });
  const tls = ['--cafile', files.ca, '--cert', files.certificate, '--key', files.key];
  const common = ['-h', server.host, '-p', String(server.port), ...tls, '-d', '-q', '1', '-k', '300'];

  function run(program: string, args: string[], input: Buffer | string = ''): Listening {
    // Into a pipe the programs print in blocks, if they are not told otherwise.
    const process = spawn('stdbuf', ['-oL', `mosquitto_${program}`, ...common, ...args], { stdio: 'pipe' });
    const printed: Buffer[] = [];
    for (const stream of [process.stdout, process.stderr]) stream.on('data', (bytes: Buffer) => printed.push(bytes));
    process.stdin.on('error', () => {}); // it may end before it has read all
    process.stdin.end(input);
    const output = () => Buffer.concat(printed).toString();
    const ended = once(process, 'close').then(([code]) => ({ code: code as number | null, output: output() }));
    return { process, output, ended };
  }

  return {
    publish: (version, topic, payload, ...options) =>
      run('pub', ['-V', version, '-t', topic, '-s', ...options], payload).ended,
    ask: (version, topic, answerTopic, payload, ...options) => {
      const message = payload === '' ? ['-n'] : ['-m', payload];
      return run('rr', ['-V', version, '-t', topic, '-e', answerTopic, ...message, '-W', '10', ...options]).ended;
    },
    listen: (version, filters, ...options) =>
      run('sub', ['-V', version, '-v', ...filters.flatMap((filter) => ['-t', filter]), ...options]),
  };
}
