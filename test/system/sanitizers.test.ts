/** The addon under AddressSanitizer, UndefinedBehaviorSanitizer and ThreadSanitizer: test/native/sanitizers.sh. */
import { expect, test } from 'vitest';
import { run } from '../support/command.ts';
import { temporaryDirectory } from '../support/temporary-directory.ts';

const DEADLINE = 600_000;

async function runUnder(sanitizer: 'address' | 'thread'): Promise<string> {
  await using directory = await temporaryDirectory();
  return await run(['test/native/sanitizers.sh', sanitizer, directory.path], { deadline: DEADLINE });
}

test('the native tests pass under AddressSanitizer and UndefinedBehaviorSanitizer', {
  timeout: DEADLINE,
}, async () => {
  expect(await runUnder('address')).toMatch(/Tests .*\d+ passed/);
});

test('write windows and worker pool under stress give ThreadSanitizer nothing to report', {
  timeout: DEADLINE,
}, async () => {
  expect(await runUnder('thread')).toBe('stressed\n');
});
