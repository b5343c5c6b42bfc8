import { z } from '@hono/zod-openapi';
import * as schemas from './schemas.ts';

export const sha256 = z.string().regex(/^[0-9a-f]{64}$/, '64 lower-case hexadecimal digits');

/** Until a token expires when nothing is said: while somebody stands beside the device, or for a day in a factory. */
const secondsFor = { interactive: 15 * 60, factory: 24 * 3_600 };
const secondsMax = 30 * 24 * 3_600;
const deviceNamesMax = 1_000;

export const newClaim = z
  .strictObject({
    kind: z.enum(['certificate', 'token']).default('certificate'),
    template: schemas.templateName,
    usesMax: z.int().min(1).max(1_000_000).default(1),
    ratePerMinute: z.int().min(1).max(100_000).default(60),
    expiresInHours: z.int().min(1).max(17_520).default(24).openapi({ description: 'Of a certificate' }),
    purpose: z.enum(['interactive', 'factory']).optional().openapi({
      description: 'Of a token: 15 minutes for somebody beside the device, or 24 hours for a factory (the default)',
    }),
    expiresInSeconds: z.int().min(60).max(secondsMax).optional().openapi({ description: 'Of a token, instead' }),
    deviceNames: z
      .array(schemas.deviceName)
      .min(1)
      .max(deviceNamesMax)
      .optional()
      .openapi({ description: 'The only devices that it is for, whatever their case' }),
    keySha256: sha256.optional().openapi({
      description: 'The only public key that it is for: SHA-256 of its SubjectPublicKeyInfo in DER',
    }),
  })
  .superRefine(({ kind, purpose, expiresInSeconds }, context) => {
    if (kind === 'token') return;
    for (const [field, value] of Object.entries({ purpose, expiresInSeconds })) {
      if (value !== undefined) context.addIssue({ code: 'custom', path: [field], message: 'this is for tokens' });
    }
  })
  .openapi('NewClaim');

export type NewClaim = z.infer<typeof newClaim>;

export const tokenSeconds = ({ purpose = 'factory', expiresInSeconds }: NewClaim) =>
  expiresInSeconds ?? secondsFor[purpose];
