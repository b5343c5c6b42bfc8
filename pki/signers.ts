import { createHash, createPublicKey, sign, verify, type KeyObject } from 'node:crypto';

/** A key on P-256, or the root's on P-384, that signs wherever it is kept, and is never seen. */
export interface Signer {
  /** SubjectPublicKeyInfo in DER. */
  readonly spki: Uint8Array;
  /** ECDSA over the digest of these bytes (RFC 5758 3.2), in DER. Throws `SignerFault` when there is no signature to be had now. */
  sign(bytes: Uint8Array, digest: 'sha256' | 'sha384'): Promise<Uint8Array>;
}

/** The key cannot be used now. The message says what is in the way, and holds no secret: whoever asked may ask again. */
export class SignerFault extends Error {
  override name = 'SignerFault';
}

/** A key that this process holds. */
export const localSigner = (privateKey: KeyObject): Signer => ({
  spki: createPublicKey(privateKey).export({ type: 'spki', format: 'der' }),
  sign: async (bytes, digest) => sign(digest, bytes, privateKey),
});

type RemoteKey = {
  spki: Uint8Array;
  /** Signs a SHA-256 digest; gives the signature in DER. */
  signDigest(digest: Uint8Array): Promise<Uint8Array>;
};

/**
 * A key on P-256 that somebody else holds, a token or a service. What comes back is verified before anybody sees it, so that no certificate is
 * issued with a signature that is none.
 */
export function remoteSigner({ spki, signDigest }: RemoteKey): Signer {
  const publicKey = createPublicKey({ key: Buffer.from(spki), format: 'der', type: 'spki' });
  if (publicKey.asymmetricKeyDetails?.namedCurve !== 'prime256v1') throw new SignerFault('The key is not on P-256');
  return {
    spki,
    async sign(bytes, digest) {
      if (digest !== 'sha256') throw new SignerFault('The key signs with SHA-256 only');
      const signature = await signDigest(createHash(digest).update(bytes).digest());
      if (verify(digest, bytes, publicKey, signature)) return signature;
      throw new SignerFault('What came back is not a signature of the key');
    },
  };
}
