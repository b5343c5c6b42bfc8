import { z } from 'zod';

const updateSchema = z.object({
  operation: z.literal('update'),
  manifest: z.string(),
  /** Of that it is missing, `requireOrder` speaks. */
  order: z.string().optional(),
  artifact: z.object({ sha256: z.string(), size: z.number(), url: z.string() }),
});

const rotationSchema = z.object({
  operation: z.literal('rotate-certificate'),
  /** What is to be replaced: a device that has done so already need not do it again. */
  certificateId: z.string(),
});

const trustSchema = z.object({
  operation: z.literal('update-trust-bundle'),
  version: z.int().min(1),
  /** Of `certificatesPem`, in hexadecimal. */
  sha256: z.string(),
  /** Every root that is good from now on, in place of those before. */
  certificatesPem: z.string(),
});

const flag = z
  .union([z.boolean(), z.stringbool()])
  .optional()
  .transform((value) => value ?? false);

const actionSchema = z
  .object({
    name: z.string().default(''),
    type: z.string(),
    input: z.object({
      handler: z.string().optional(),
      args: z.array(z.string()).default([]),
      command: z.string().optional(),
    }),
    ignoreStepFailure: flag,
  })
  .transform(({ name, type, input: { handler, args, command }, ignoreStepFailure }) => ({
    name,
    ignoreStepFailure,
    /** What is to run, and with what. */
    argv: type === 'runCommand' ? wordsOf(command ?? '') : [handler ?? '', ...args],
    isCommand: type === 'runCommand',
  }))
  .refine(({ argv }) => argv[0] !== '', 'there is nothing to run');

const stepsSchema = z.object({
  version: z.literal('1.0'),
  steps: z.array(z.object({ action: actionSchema })).min(1),
  finalStep: z.object({ action: actionSchema }).optional(),
  includeStdOut: flag,
});

/** One step of a document in the schema of AWS's managed templates. */
export type Action = z.infer<typeof actionSchema>;

export type JobDocument =
  | {
      kind: 'update';
      manifest: string;
      order: string | undefined;
      artifact: { sha256: string; size: number; url: string };
    }
  | { kind: 'rotation'; certificateId: string }
  | ({ kind: 'trust' } & Omit<z.infer<typeof trustSchema>, 'operation'>)
  | { kind: 'steps'; actions: Action[]; includeStdOut: boolean }
  | { kind: 'unknown'; why: string };

/** What a document asks for. Fields that are not known are ignored. */
export function readJobDocument(document: unknown): JobDocument {
  const update = updateSchema.safeParse(document);
  if (update.success) {
    const { manifest, order, artifact } = update.data;
    return { kind: 'update', manifest, order, artifact };
  }
  const rotation = rotationSchema.safeParse(document);
  if (rotation.success) return { kind: 'rotation', certificateId: rotation.data.certificateId };
  const trust = trustSchema.safeParse(document);
  if (trust.success) {
    const { version, sha256, certificatesPem } = trust.data;
    return { kind: 'trust', version, sha256, certificatesPem };
  }
  const plain = stepsSchema.safeParse(document);
  if (plain.success) {
    const { steps, finalStep, includeStdOut } = plain.data;
    const actions = [...steps, ...(finalStep ? [finalStep] : [])].map(({ action }) => action);
    return { kind: 'steps', actions, includeStdOut };
  }
  const { error } = isUpdate(document) ? update : plain;
  const [issue] = error.issues;
  return { kind: 'unknown', why: `${issue?.path.join('.') || 'the document'}: ${issue?.message ?? 'not understood'}` };
}

const isUpdate = (document: unknown) =>
  typeof document === 'object' && document !== null && 'operation' in document && document.operation === 'update';

/** AWS's managed template "Run command": words with commas between them, `\,` being a comma. */
const wordsOf = (command: string): string[] =>
  command.split(/(?<!\\),/).map((word) => word.replaceAll('\\,', ',').trim());
