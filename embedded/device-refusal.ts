/** The device does not do what it is told to, and says why. */
export class JobRefused extends Error {
  override name = 'JobRefused';

  constructor(code: string, message: string) {
    super(`${code}: ${message}`);
  }
}
