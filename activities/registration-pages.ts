import { X509Certificate } from 'node:crypto';
import { listAuthorities } from '../db/authorities.ts';
import type { Db } from '../db/client.ts';
import { createIds } from '../db/ids.ts';
import * as pages from '../db/registration-pages.ts';
import type { Conflict, NewFault } from '../db/registration-pages.ts';
import type { RegistrationRow } from '../db/registrations.ts';
import { resolveGroups } from '../db/targets.ts';
import type { Line, Place } from '../files/lines.ts';
import type { AskedDevice, Judged } from '../files/registration-lines.ts';
import { readDeviceCertificate, type DeviceCertificate } from '../pki/device-certificates.ts';

export type JudgedLine = { line: number; end: Place } & Judged;

/** Some lines of a file that follow one another; `from` is where the first begins, or the empty lines before it. */
export type RegistrationPage = { from: Place; end: Place; lines: JudgedLine[] };

type Device = { line: number; asked: AskedDevice; key: string | null; certificate?: DeviceCertificate };
type Signed = { id: string; certificate: X509Certificate };

/** What a format's own fault, or the rules for one line, make of a line. */
export const judgeLine = <Said>({ line, end, ...found }: Line<Said>, judge: (said: Said) => Judged): JudgedLine => ({
  line,
  end,
  ...('fault' in found ? { fault: found.fault } : judge(found.said)),
});

/**
 * Registers the devices of a page and reports its faults, together with the place that reading goes on from: in one
 * transaction, so that no line is done twice or lost, whoever is killed when. False, with nothing done, when the file is not
 * at this page any more: it was canceled, or somebody else reads it.
 */
export async function registerPage(db: Db, registrationId: string, page: RegistrationPage): Promise<boolean> {
  return db.transaction(async (tx) => {
    const row = await pages.lockRegistration(tx, registrationId);
    if (!row || row.finishedAt || row.byteOffset !== page.from.offset) return false;
    const faults: NewFault[] = [];
    const refuse = (line: number, name: string | null, code: string, detail: string) =>
      void faults.push({ line, name, code, detail });
    const devices = page.lines.flatMap((judged): Device[] => {
      if ('asked' in judged) return readKey(judged.line, judged.asked, refuse);
      refuse(judged.line, judged.name ?? null, judged.fault.code, judged.fault.detail);
      return [];
    });
    const accepted = await accept(tx, row, devices, refuse);
    await pages.insertFaults(tx, registrationId, faults);
    const counts = { registered: accepted, refused: faults.length };
    await pages.advanceRegistration(tx, registrationId, { ...page.end, ...counts });
    return true;
  });
}

type Refuse = (line: number, name: string | null, code: string, detail: string) => void;

/** The one key that the line registers, by its certificate, its fingerprint, or both alike. */
function readKey(line: number, asked: AskedDevice, refuse: Refuse): Device[] {
  const { name, fingerprint } = asked;
  if (asked.certificate === undefined) return [{ line, asked, key: fingerprint ?? null }];
  const certificate = readDeviceCertificate(asked.certificate);
  if ('fault' in certificate) {
    refuse(line, name, 'bad-certificate', `the certificate is refused: ${certificate.fault}`);
    return [];
  }
  if (fingerprint !== undefined && fingerprint !== certificate.key) {
    refuse(line, name, 'key-mismatch', 'the fingerprint is not that of the key in the certificate');
    return [];
  }
  return [{ line, asked, key: certificate.key, certificate }];
}

/** Inserts what the fleet, and the lines before in the file, have nothing against. Returns how many there were. */
async function accept(tx: Db, row: RegistrationRow, devices: Device[], refuse: Refuse): Promise<number> {
  const asked = devices.map(({ line, asked: { name }, key }) => ({ line, name, key }));
  const conflicts = new Map((await pages.listConflicts(tx, row.id, asked)).map((found) => [found.line, found]));
  const groups = await findGroups(tx, devices);
  const issuers = await findIssuers(tx, devices);
  const names = new Map<string, number>();
  const keys = new Map<string, number>();
  const nextId = createIds();
  const accepted: { device: Device; id: string; issuer: Signed | undefined }[] = [];

  for (const device of devices) {
    const { line, key, certificate } = device;
    const name = device.asked.name.toLowerCase();
    const issuer = certificate && issuers.find((authority) => certificate.isFrom(authority.certificate));
    const fault =
      conflictOf(conflicts.get(line), { name: names.get(name), key: key === null ? undefined : keys.get(key) }) ??
      (certificate && !issuer ? foreign : undefined) ??
      unknownGroup(device.asked.groups, groups);
    if (fault) {
      refuse(line, device.asked.name, ...fault);
      continue;
    }
    names.set(name, line);
    if (key !== null) keys.set(key, line);
    accepted.push({ device, id: nextId(), issuer });
  }

  await pages.insertDevices(
    tx,
    row,
    accepted.map(({ id, device: { line, asked: said, key } }) => {
      return { id, auditId: nextId(), line, name: said.name, attributes: said.attributes, key };
    }),
  );
  await pages.insertForeignCertificates(
    tx,
    accepted.flatMap(({ id, issuer, device: { asked: said, certificate } }) =>
      issuer && certificate ? [{ ...certificate, deviceId: id, name: said.name, authorityId: issuer.id }] : [],
    ),
  );
  await pages.insertMembers(
    tx,
    accepted.flatMap(({ id, device }) =>
      device.asked.groups.map((name) => ({ deviceId: id, groupId: groups.get(name.toLowerCase()) ?? '' })),
    ),
  );
  return accepted.length;
}

type Fault = [code: string, detail: string];

const foreign: Fault = [
  'foreign-certificate',
  'no authority of this fleet has issued the certificate: register its fingerprint, and let the device enrol',
];

/** The first fault, in the order in which a person would look; `earlier` are lines of the same page. */
function conflictOf(
  found: Conflict | undefined,
  earlier: { name: number | undefined; key: number | undefined },
): Fault | undefined {
  const nameLine = earlier.name ?? found?.nameTaken ?? undefined;
  if (nameLine) return ['duplicate-name', `line ${nameLine} has registered the name, perhaps in another case`];
  if (found?.nameBlocked) return ['name-blocked', 'the name is blocked'];
  if (nameLine === 0) return ['name-taken', 'there is a device of this name, perhaps in another case'];
  const keyLine = earlier.key ?? found?.keyTaken ?? undefined;
  if (keyLine) return ['duplicate-key', `line ${keyLine} has registered the key: a device needs a key of its own`];
  if (found?.keyBlocked) return ['key-blocked', 'the key is blocked'];
  if (keyLine === 0)
    return ['key-in-use', 'the key is, or was, that of a certificate, or registered for another device'];
  return undefined;
}

function unknownGroup(names: string[], groups: Map<string, string>): Fault | undefined {
  const unknown = names.find((name) => !groups.has(name.toLowerCase()));
  return unknown === undefined ? undefined : ['unknown-group', `there is no static group ${unknown}`];
}

/** Static ones, by name in lower case. */
async function findGroups(tx: Db, devices: Device[]): Promise<Map<string, string>> {
  const names = [...new Set(devices.flatMap(({ asked }) => asked.groups.map((name) => name.toLowerCase())))];
  if (names.length === 0) return new Map();
  const { groups } = await resolveGroups(tx, names);
  return new Map(groups.flatMap(({ id, name, filter }) => (filter === null ? [[name.toLowerCase(), id]] : [])));
}

/** Whose certificates the gateways let in. */
async function findIssuers(tx: Db, devices: Device[]): Promise<Signed[]> {
  if (devices.every(({ certificate }) => certificate === undefined)) return [];
  const rows = await listAuthorities(tx);
  return rows
    .filter(({ kind, state }) => kind !== 'root' && state !== 'REVOKED')
    .map(({ id, certificatePem }) => ({ id, certificate: new X509Certificate(certificatePem) }));
}
