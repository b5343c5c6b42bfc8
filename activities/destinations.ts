import { lookup } from 'node:dns/promises';
import { BlockList, isIP, isIPv6 } from 'node:net';

export type Resolve = (hostname: string) => Promise<string[]>;

export type DestinationRules = {
  /** Networks in CIDR notation that an operator permits although they are not public. */
  permittedNetworks?: string[] | undefined;
  /** Lets `http:` pass as well. */
  plain?: boolean | undefined;
  /** Instead of the system's resolver. */
  resolve?: Resolve | undefined;
};

/** Where a request goes: to this very address, whatever the name means a moment later. */
export type Destination = { url: URL; address: string; family: 4 | 6 };

/** The address is not one that may be called. Its message names the rule; the address only the log sees. */
export class ForbiddenDestination extends Error {
  override name = 'ForbiddenDestination';
}

/** Everything in IPv4 that is not public (IANA's special-purpose registry), clouds' metadata among it. */
const special4 =
  '0.0.0.0/8 10.0.0.0/8 100.64.0.0/10 127.0.0.0/8 169.254.0.0/16 172.16.0.0/12 192.0.0.0/24 192.0.2.0/24 192.31.196.0/24 192.52.193.0/24 192.88.99.0/24 192.168.0.0/16 192.175.48.0/24 198.18.0.0/15 198.51.100.0/24 203.0.113.0/24 224.0.0.0/3';
/** Of IPv6 only 2000::/3 is public, and this much of it is not, or stands for an IPv4 address (Teredo, 6to4). */
const special6 = '2001::/23 2001:db8::/32 2002::/16 3fff::/20';

/**
 * Decides whether a URL may be called, and to which address: the name is resolved once, every address that it has must be
 * permitted, and the first is the one to connect to. Throws `ForbiddenDestination`.
 */
export function createDestinations({ permittedNetworks = [], plain = false, resolve = resolveName }: DestinationRules) {
  const permitted = networks(permittedNetworks);
  const special = networks([...special4.split(' '), ...special6.split(' ')]);
  const global6 = networks(['2000::/3']);

  function isPermitted(address: string): boolean {
    const family = isIPv6(address) ? 'ipv6' : 'ipv4';
    // An IPv4 address in IPv6's clothes is judged as what it is.
    const plainly = /^::ffff:(\d+\.\d+\.\d+\.\d+)$/i.exec(address)?.[1];
    if (plainly) return isPermitted(plainly);
    if (permitted.check(address, family)) return true;
    if (special.check(address, family)) return false;
    return family === 'ipv4' || global6.check(address, family);
  }

  return async (text: string): Promise<Destination> => {
    const url = readUrl(text);
    if (url.protocol !== 'https:' && !(plain && url.protocol === 'http:')) {
      throw new ForbiddenDestination('only https is called');
    }
    if (url.username || url.password) throw new ForbiddenDestination('a URL holds no credentials');
    const host = url.hostname.replace(/^\[(.*)\]$/, '$1');
    const addresses = isIP(host) ? [host] : await resolve(host);
    const [address] = addresses;
    if (!address) throw new ForbiddenDestination('the name has no address');
    if (!addresses.every(isPermitted)) throw new ForbiddenDestination('the address is not public, and not permitted');
    return { url, address, family: isIPv6(address) ? 6 : 4 };
  };
}

function readUrl(text: string): URL {
  if (URL.canParse(text)) return new URL(text);
  throw new ForbiddenDestination('this is no URL');
}

function networks(cidrs: string[]): BlockList {
  const list = new BlockList();
  for (const cidr of cidrs) {
    const [address = '', bits] = cidr.split('/');
    list.addSubnet(address, Number(bits), isIPv6(address) ? 'ipv6' : 'ipv4');
  }
  return list;
}

async function resolveName(hostname: string): Promise<string[]> {
  const found = await lookup(hostname, { all: true, verbatim: true });
  return found.map(({ address }) => address);
}
