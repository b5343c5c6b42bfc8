import { pino, type Logger } from 'pino';

/** JSON lines on stdout, one log per process. What must never be read in a log is redacted by its name. */
export function createLog(part: string, level: string): Logger {
  return pino({
    name: part,
    level,
    redact: ['*.privateKey', '*.token', '*.secret', '*.authorization', '*.certificateOwnershipToken'],
  });
}
