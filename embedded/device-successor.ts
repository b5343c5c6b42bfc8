import type { Credentials } from './device-connection.ts';
import { certificateFile, keyFile, type DeviceState } from './device-folder.ts';

/** The certificate that is to replace the one that a device lives by, with its key. */
export type Successor = {
  /** Made the first time, and kept. */
  privateKey(): string;
  /** Undefined until it was issued, and is on the disk. */
  credentials(): Credentials | undefined;
  keep(issued: { certificateId: string; certificatePem: string }): void;
  /** It has proved good: the device lives by it from now on. What it replaces is still there until `clearReplaced`. */
  succeed(): void;
  /** Also for a power cut that came between. */
  clearReplaced(): void;
  /** It is no good: the device goes on with what it has. */
  drop(): void;
};

type Disk = {
  state: () => DeviceState;
  keepState: (state: DeviceState) => void;
  keyOf: (generation: number) => string;
  read: (name: string) => string | undefined;
  replace: (name: string, content: string) => string;
  remove: (name: string) => void;
};

/**
 * Key and certificate are files with the next number. One replacement of `device.json` says that there is a successor, and
 * another that it has succeeded: a power cut finds a device with the old pair whole, or the new one.
 */
export function openSuccessor({ state, keepState, keyOf, read, replace, remove }: Disk): Successor {
  const current = () => state().generation ?? 0;
  const next = () => current() + 1;
  const removePair = (generation: number) => {
    remove(certificateFile(generation));
    remove(keyFile(generation));
  };
  const withoutSuccessor = (): DeviceState => {
    const { successorId: _, ...rest } = state();
    return rest;
  };

  return {
    privateKey: () => keyOf(next()),
    credentials() {
      const certificate = state().successorId === undefined ? undefined : read(certificateFile(next()));
      return certificate === undefined ? undefined : { certificate, privateKey: keyOf(next()) };
    },
    keep({ certificateId, certificatePem }) {
      replace(certificateFile(next()), certificatePem);
      keepState({ ...state(), successorId: certificateId });
    },
    succeed() {
      const { successorId } = state();
      keepState({
        ...withoutSuccessor(),
        generation: next(),
        ...(successorId !== undefined && { certificateId: successorId }),
      });
    },
    clearReplaced() {
      if (current() > 0) removePair(current() - 1);
    },
    drop() {
      keepState(withoutSuccessor());
      removePair(next());
    },
  };
}
