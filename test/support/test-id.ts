import { randomUUID } from 'node:crypto';

const VARIABLE = 'NBD_SERVE_TEST_ID';

/**
 * Marks everything that one test file creates: its temporary directories carry it in their names and its child
 * processes in their environment, so that leftovers are found without guessing by program name.
 */
export function testId(): string {
  const known = process.env[VARIABLE];
  if (known !== undefined) return known;
  const fresh = randomUUID();
  process.env[VARIABLE] = fresh;
  return fresh;
}

/** The entry as it stands in the /proc/PID/environ of a child process. */
export function testIdEntry(): string {
  return `${VARIABLE}=${testId()}`;
}
