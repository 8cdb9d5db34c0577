/** What a command line that runs inside the test process prints. */
import { afterEach, vi } from 'vitest';
import { runProgram } from '../../src/cli/program.ts';

export interface Outcome {
  readonly code: number;
  readonly stdout: string;
  readonly stderr: string;
}

afterEach(() => {
  vi.restoreAllMocks();
});

/** Collects what is written to one of the standard streams from now on, until the end of the test. */
export function capture(stream: NodeJS.WriteStream): { text: string } {
  const captured = { text: '' };
  vi.spyOn(stream, 'write').mockImplementation((chunk) => {
    captured.text += String(chunk);
    return true;
  });
  return captured;
}

/** Runs `nbd-serve` with these words. */
export async function nbdServe(...words: string[]): Promise<Outcome> {
  const stdout = capture(process.stdout);
  const stderr = capture(process.stderr);
  const code = await runProgram(words);
  vi.restoreAllMocks();
  return { code, stdout: stdout.text, stderr: stderr.text };
}
