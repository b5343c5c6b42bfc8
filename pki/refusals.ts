/** Why a request is not taken: a stable code, and a sentence that names the fault and the limit. */
export type CsrRefusal = { reason: string; detail: string };

/** Carries a refusal up to `judgeCsr`, which hands it out as a value. */
export class CsrFault extends Error {
  override name = 'CsrFault';
  readonly reason: string;

  constructor(reason: string, detail: string) {
    super(detail);
    this.reason = reason;
  }
}
