import { judgeCsr, type CsrExpectations } from '../../pki/csr-policy.ts';

/** `accepted <key algorithm>` or the reason of the refusal. */
export async function verdictOn(csr: string | Uint8Array, expectations: CsrExpectations = {}): Promise<string> {
  const verdict = await judgeCsr(csr, expectations);
  return 'accepted' in verdict ? `accepted ${verdict.accepted.keyAlgorithm}` : verdict.refused.reason;
}
