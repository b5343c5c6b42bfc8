import type { Database } from '../db/client.ts';
import type { Authority } from '../pki/authority.ts';
import type { ListSigner } from '../pki/crl.ts';
import type { WebhookRules } from './webhooks.ts';

/** What activities work with: handed in once, by the process that composes them. */
export type Deps = {
  db: Database;
  authority: Authority;
  /** Those whose revocation lists are published; without it, the authority's alone. */
  lists?: () => Promise<ListSigner[]>;
  /** Hints to the gateways, after the commit; each may be lost. */
  wire: { tell(hint: { feed: true } | { orders: string[] }): void };
  /** What templates' hooks are called with: without it, a template that has one permits nobody. */
  hooks?: WebhookRules & { /** 32 bytes: opens the hooks' secrets. */ sealingKey: Uint8Array };
  /** Instead of the database's own time, for tests that let days pass. */
  clock?: () => Date;
};
