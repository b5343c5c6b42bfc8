import { Readable } from 'node:stream';
import {
  GetObjectCommand,
  HeadBucketCommand,
  HeadObjectCommand,
  S3Client,
  S3ServiceException,
} from '@aws-sdk/client-s3';
import { Upload } from '@aws-sdk/lib-storage';
import { ContentGone, type Store } from './store.ts';

export type S3Options = {
  bucket: string;
  /** Before every digest, such as `artifacts/`. */
  prefix: string;
  region: string;
  /** Another server than AWS; it is asked by path, because few of them have a host name for each bucket. */
  endpoint?: string | undefined;
};

/** Two parts of this size at most are in memory for each upload; S3 takes 10,000 of them. */
const partBytes = 8 * 1024 * 1024;
const partsAtOnce = 2;

/**
 * Content in a bucket of any server that speaks S3; who we are there, the usual `AWS_…` variables say. An upload of many
 * parts is visible when it is completed, and one that fails takes its parts back. Those of a process that was killed are
 * left for the bucket's own rule about unfinished uploads to remove.
 */
export function openS3({ bucket, prefix, region, endpoint }: S3Options): Store {
  const client = new S3Client({ region, ...(endpoint !== undefined && { endpoint, forcePathStyle: true }) });
  const objectOf = (sha256: string) => ({ Bucket: bucket, Key: prefix + sha256 });

  return {
    async write(sha256, content) {
      const params = { ...objectOf(sha256), Body: Readable.from(content), ContentType: 'application/octet-stream' };
      await new Upload({ client, params, partSize: partBytes, queueSize: partsAtOnce }).done();
    },
    async find(sha256) {
      const found = await client.send(new HeadObjectCommand(objectOf(sha256))).catch(unlessMissing);
      return found && { size: found.ContentLength ?? 0 };
    },
    async read(sha256, { first, last }, signal) {
      const range = { ...objectOf(sha256), Range: `bytes=${first}-${last}` };
      const found = await client.send(new GetObjectCommand(range), { abortSignal: signal }).catch(unlessMissing);
      if (!found) throw new ContentGone(`there is no ${sha256} in the bucket`);
      if (!(found.Body instanceof Readable)) throw new Error('the S3 client gave no stream');
      return found.Body;
    },
    probe: async () => void (await client.send(new HeadBucketCommand({ Bucket: bucket }))),
  };
}

/** A missing object has no body to say so in an answer to HEAD, where only the status tells. */
function unlessMissing(error: unknown): undefined {
  if (error instanceof S3ServiceException && error.$metadata.httpStatusCode === 404) return undefined;
  throw error;
}
