import { createAddresses, type Addresses } from '../files/addresses.ts';
import { readKey } from './keys.ts';

/** The addresses that gateways make and the files' server reads, under the key in the file that they share. */
export const openAddresses = async ({
  keyFile,
  ...rest
}: {
  base: string;
  keyFile: string;
  lifetimeSeconds: number;
}): Promise<Addresses> => createAddresses({ ...rest, key: await readKey(keyFile) });
