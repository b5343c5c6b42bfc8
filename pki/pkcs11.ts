import { randomBytes } from 'node:crypto';
import { createRequire } from 'node:module';
import type * as Pkcs11js from 'pkcs11js';

import { encode, sequence, tags } from './der.ts';
import { remoteSigner, SignerFault, type Signer } from './signers.ts';

export type Pkcs11Options = {
  /** The file of the token's library. */
  module: string;
  /** The label of the token. */
  token: string;
  pin: string;
};

export type Pkcs11Token = Disposable & {
  /** The key of this label. */
  findSigner(label: string): Signer;
  /** Makes a key pair on P-256 that never leaves the token. */
  makeSigner(label: string): Signer;
};

/** OID of P-256, and what stands before a point on it in a SubjectPublicKeyInfo. */
const p256 = Buffer.from('06082a8648ce3d030107', 'hex');
const spkiHead = Buffer.from('3059301306072a8648ce3d020106082a8648ce3d030107034200', 'hex');
const pointBytes = 65;

/**
 * Opens a token (PKCS #11 2.40) and logs in. A PIN that was refused is not tried again, because tokens lock themselves after
 * a few. A session that the token has lost, as when it was taken out, is opened anew by the next signature.
 */
export function openPkcs11({ module, token, pin }: Pkcs11Options): Pkcs11Token {
  const library = load();
  const cryptoki = new library.PKCS11();
  let session: Buffer | undefined;
  let isPinRefused = false;
  /** A session has one signature at a time. */
  let last: Promise<unknown> = Promise.resolve();

  function open(): Buffer {
    if (session) return session;
    if (isPinRefused) throw new SignerFault(`The PIN of token ${token} was refused: it is not tried again`);
    const slot = cryptoki
      .C_GetSlotList(true)
      .find((each) => cryptoki.C_GetTokenInfo(each).label.replace(/[\0 ]+$/, '') === token);
    if (!slot) throw new SignerFault(`There is no token called ${token}`);
    const opened = cryptoki.C_OpenSession(slot, library.CKF_SERIAL_SESSION | library.CKF_RW_SESSION);
    try {
      cryptoki.C_Login(opened, library.CKU_USER, pin);
    } catch (error) {
      if (codeOf(error) !== library.CKR_USER_ALREADY_LOGGED_IN) {
        isPinRefused = codeOf(error) === library.CKR_PIN_INCORRECT || codeOf(error) === library.CKR_PIN_LOCKED;
        cryptoki.C_CloseSession(opened);
        throw error;
      }
    }
    return (session = opened);
  }

  /** With a session, after whoever has it; once more in a new one when the token had lost it. */
  async function within<Done>(work: (session: Buffer) => Promise<Done>): Promise<Done> {
    const attempt = async () => work(open());
    const again = (error: unknown) => (isStale(error) ? attempt() : Promise.reject(error));
    const doing = last
      .then(attempt)
      .catch(again)
      .catch((error: unknown) => Promise.reject(leave(error) as Error));
    last = doing.catch(() => {});
    return doing;
  }

  function isStale(error: unknown): boolean {
    const stale = [
      library.CKR_SESSION_HANDLE_INVALID,
      library.CKR_SESSION_CLOSED,
      library.CKR_USER_NOT_LOGGED_IN,
      library.CKR_DEVICE_REMOVED,
    ];
    if (!stale.includes(Number(codeOf(error)))) return false;
    session = undefined;
    return true;
  }

  /** What goes wrong is a fault, with the token's own word for it. */

  function leave(error: unknown): unknown {
    session = undefined;
    if (error instanceof SignerFault) return error;
    return new SignerFault(`Token ${token} refuses: ${error instanceof Error ? error.message : 'no reason given'}`);
  }

  function direct<Done>(work: (session: Buffer) => Done): Done {
    try {
      return work(open());
    } catch (error) {
      if (isStale(error)) return work(open());
      throw leave(error);
    }
  }

  function find(opened: Buffer, keyClass: number, label: string): Buffer {
    cryptoki.C_FindObjectsInit(opened, [
      { type: library.CKA_CLASS, value: keyClass },
      { type: library.CKA_LABEL, value: label },
    ]);
    const found = cryptoki.C_FindObjects(opened, 2);
    cryptoki.C_FindObjectsFinal(opened);
    const [key, another] = found;
    if (!key || another) throw new SignerFault(`Token ${token} has ${key ? 'two keys' : 'no key'} called ${label}`);
    return key;
  }

  function findSigner(label: string): Signer {
    const spki = direct((opened) => {
      find(opened, library.CKO_PRIVATE_KEY, label);
      const key = find(opened, library.CKO_PUBLIC_KEY, label);
      const [point] = cryptoki.C_GetAttributeValue(opened, key, [{ type: library.CKA_EC_POINT }]);
      if (!Buffer.isBuffer(point?.value)) throw new SignerFault(`Key ${label} of token ${token} has no point`);
      return Buffer.concat([spkiHead, point.value.subarray(-pointBytes)]);
    });
    return remoteSigner({
      spki,
      signDigest: (digest) =>
        within(async (opened) => {
          // Looked up each time: a handle is worth nothing after its token was away.
          const key = find(opened, library.CKO_PRIVATE_KEY, label);
          cryptoki.C_SignInit(opened, { mechanism: library.CKM_ECDSA }, key);
          return derOf(await cryptoki.C_SignAsync(opened, Buffer.from(digest), Buffer.alloc(64)));
        }),
    });
  }

  cryptoki.load(module);
  try {
    cryptoki.C_Initialize();
  } catch (error) {
    // Another part of this process has opened the same library.
    if (codeOf(error) !== library.CKR_CRYPTOKI_ALREADY_INITIALIZED) throw leave(error);
  }
  direct(() => {});

  return {
    findSigner,
    makeSigner(label) {
      direct((opened) => {
        const id = { type: library.CKA_ID, value: randomBytes(16) };
        const common = [{ type: library.CKA_TOKEN, value: true }, { type: library.CKA_LABEL, value: label }, id];
        cryptoki.C_GenerateKeyPair(
          opened,
          { mechanism: library.CKM_EC_KEY_PAIR_GEN },
          [...common, { type: library.CKA_VERIFY, value: true }, { type: library.CKA_EC_PARAMS, value: p256 }],
          [
            ...common,
            { type: library.CKA_PRIVATE, value: true },
            { type: library.CKA_SENSITIVE, value: true },
            { type: library.CKA_EXTRACTABLE, value: false },
            { type: library.CKA_SIGN, value: true },
          ],
        );
      });
      return findSigner(label);
    },
    [Symbol.dispose]() {
      if (session) cryptoki.C_CloseSession(session);
      session = undefined;
    },
  };
}

/** The package compiles itself where it is installed, and is optional: most fleets have no token. */
function load(): typeof Pkcs11js {
  try {
    return createRequire(import.meta.url)('pkcs11js') as typeof Pkcs11js;
  } catch {
    throw new SignerFault('The package pkcs11js is not installed: it needs a C++ compiler and Python where npm runs');
  }
}

const codeOf = (error: unknown) => (error instanceof Error && 'code' in error ? error.code : undefined);

/** ECDSA-Sig-Value (RFC 3279 2.2.3) of what PKCS #11 gives: r and s, one after the other. */
const derOf = (signature: Buffer) =>
  sequence(integer(signature.subarray(0, signature.length / 2)), integer(signature.subarray(signature.length / 2)));

function integer(bytes: Buffer): Buffer {
  const first = bytes.findIndex((byte) => byte !== 0);
  const digits = bytes.subarray(first < 0 ? bytes.length - 1 : first);
  return encode(tags.integer, (digits[0] ?? 0) & 0x80 ? Buffer.of(0) : Buffer.alloc(0), digits);
}
