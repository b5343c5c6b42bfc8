import { collectDefaultMetrics, Counter, Gauge, Registry } from 'prom-client';

export type FilesMetrics = ReturnType<typeof createFilesMetrics>;

/** What the files' server counts. Names carry their unit; labels come from closed lists. */
export function createFilesMetrics() {
  const registry = new Registry();
  collectDefaultMetrics({ register: registry });
  const registers = [registry];
  return {
    registry,
    requests: new Counter({
      name: 'longhaul_files_requests_total',
      help: 'Requests by outcome',
      labelNames: ['outcome'],
      registers,
    }),
    bytes: new Counter({ name: 'longhaul_files_sent_bytes_total', help: 'Bytes of content sent', registers }),
    cut: new Counter({
      name: 'longhaul_files_cut_total',
      help: 'Downloads cut off, because the device may not fetch any more',
      registers,
    }),
    watchDownloads(count: () => number) {
      const collect = () => downloads.set(count());
      const options = { name: 'longhaul_files_downloads', help: 'Downloads under way', registers, collect };
      const downloads: Gauge = new Gauge(options);
    },
  };
}
