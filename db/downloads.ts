import { sql } from 'drizzle-orm';
import type { Db } from './client.ts';
import { executePrepared } from './prepared.ts';
import { refusalOfCertificate, type SessionRefusal } from './session-openings.ts';

/** A device that fetches what a job of its own asks for. */
export type Download = {
  deviceId: string;
  jobId: string;
  /** SHA-256 of the certificate that it shows, in hex; null when it shows none. */
  fingerprint: string | null;
};

export type DownloadRefusal =
  | SessionRefusal
  | 'DeviceUnknown'
  | 'CertificateOfAnother'
  | 'ExecutionUnknown'
  | 'ExecutionEnded';

/**
 * Why each of these downloads may not be, or null where it may: the device is known and not blocked, the certificate,
 * where one is shown, is its own and good, and its last execution of the job has not ended. In the order of the downloads.
 */
export async function judgeDownloads(db: Db, downloads: Download[]): Promise<(DownloadRefusal | null)[]> {
  const rows = await executePrepared<{ refusal: DownloadRefusal | null }>(
    db,
    sql`
    select case
      when d.id is null then 'DeviceUnknown'
      when d.state = 'BLOCKED' then 'DeviceBlocked'
      when a.fingerprint is not null and c.device_id is distinct from a.device_id then 'CertificateOfAnother'
      when a.fingerprint is not null and ${refusalOfCertificate} is not null then ${refusalOfCertificate}
      when e.job_id is null then 'ExecutionUnknown'
      when e.ended_at is not null then 'ExecutionEnded'
    end as refusal
    from unnest(${sql.param(downloads.map(({ deviceId }) => deviceId))}::uuid[],
      ${sql.param(downloads.map(({ jobId }) => jobId))}::uuid[],
      ${sql.param(downloads.map(({ fingerprint }) => fingerprint))}::text[]) with ordinality
      as a (device_id, job_id, fingerprint, n)
    left join devices d on d.id = a.device_id
    left join certificates c on c.fingerprint = decode(a.fingerprint, 'hex')
    left join claims cl on c.kind = 'claim' and cl.certificate_id = c.id
    left join lateral (
      select job_id, ended_at from executions
      where job_id = a.job_id and device_id = a.device_id order by attempt desc limit 1
    ) e on true
    order by a.n`,
  );
  return rows.map(({ refusal }) => refusal);
}
