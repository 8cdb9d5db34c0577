#!/usr/bin/env node
/** The executable: words in, exit code out. */
import { buildErrorFrom } from './native/build-error.ts';

const code = await run(process.argv.slice(2));
// Not process.exitCode alone: a connection that lingers must not keep an ended server alive.
process.exit(code);

async function run(words: readonly string[]): Promise<number> {
  try {
    // Not a static import: it would fail to load an addon before anything here could say why.
    const { runProgram } = await import('./cli/program.ts');
    return await runProgram(words);
  } catch (error) {
    const known = buildErrorFrom(error);
    if (known === undefined) {
      throw error;
    }
    process.stderr.write(`nbd-serve: ${known.message}\n`);
    return 1;
  }
}
