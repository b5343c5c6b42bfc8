import type { Db } from '../db/client.ts';
import { judgeDownloads, type Download, type DownloadRefusal } from '../db/downloads.ts';

export type Permissions = {
  /** Why the download may not be; null when it may. What was found out is believed for `trustMs`. */
  judge(download: Download): Promise<DownloadRefusal | null>;
  /** The same of many, as it is now. */
  judgeNow(downloads: Download[]): Promise<(DownloadRefusal | null)[]>;
};

export type PermissionsOptions = {
  db: Db;
  /** For how long a device that is blocked, or has ended its job, may still begin a download: seconds at most. */
  trustMs?: number;
  rememberedMax?: number;
};

/** A device that fetches its content piece by piece costs a look at the rows every other second, not one for each piece. */
export function createPermissions({ db, trustMs = 2_000, rememberedMax = 10_000 }: PermissionsOptions): Permissions {
  const remembered = new Map<string, { found: Promise<DownloadRefusal | null>; until: number }>();

  function look(key: string, download: Download): Promise<DownloadRefusal | null> {
    const found = judgeDownloads(db, [download]).then(([refusal = null]) => refusal);
    remembered.delete(key);
    const [oldest] = remembered.keys();
    if (oldest !== undefined && remembered.size >= rememberedMax) remembered.delete(oldest);
    remembered.set(key, { found, until: performance.now() + trustMs });
    // A question that was not answered is asked again by the next.
    found.catch(() => remembered.delete(key));
    return found;
  }

  return {
    judge(download) {
      const key = `${download.deviceId}/${download.jobId}/${download.fingerprint}`;
      const known = remembered.get(key);
      return known && performance.now() < known.until ? known.found : look(key, download);
    },
    judgeNow: async (downloads) => (downloads.length === 0 ? [] : judgeDownloads(db, downloads)),
  };
}
