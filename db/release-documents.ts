type Release = {
  product: string;
  version: string;
  manifest: string;
  artifact: Uint8Array;
  artifactName: string;
  size: number;
};

/**
 * What a device is told to install: the manifest as it was signed, and where the artifact is. The gateway puts the signed,
 * short-lived address in when the device asks, and adds its `order`, which names this manifest.
 */
export function documentOf({ product, version, manifest, artifact, artifactName: name, size }: Release): string {
  const sha256 = Buffer.from(artifact).toString('hex');
  const url = `\${longhaul:url:${sha256}}`;
  return JSON.stringify({ operation: 'update', product, version, manifest, artifact: { name, sha256, size, url } });
}

/** The manifest in a document that is of a release. */
export function manifestIn(document: string): string {
  // It was written above.
  const { manifest }: { manifest: string } = JSON.parse(document);
  return manifest;
}
