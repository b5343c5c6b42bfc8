import { registerHooks } from 'node:module';

/*
 * Preloaded into the processes of the embedded stack. Node reads a package's description once more for every ES module
 * in it, and Drizzle's description is 180 KB: a second of CPU per process. As CommonJS the same library loads in a tenth.
 */
registerHooks({
  resolve: (specifier, context, next) =>
    next(specifier, specifier.startsWith('drizzle-orm') ? { ...context, conditions: ['node', 'require'] } : context),
});
