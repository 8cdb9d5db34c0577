import { setTimeout as sleep } from 'node:timers/promises';

/**
 * Waits for a state. The deadline only turns a hang into an error message: no test may depend on how long
 * something takes.
 */
export async function eventually<T>(
  what: string,
  probe: () => Promise<T | undefined> | T | undefined,
  deadline = 60_000,
): Promise<T> {
  const end = Date.now() + deadline;
  for (;;) {
    const value = await probe();
    if (value !== undefined) return value;
    if (Date.now() > end) throw new Error(`gave up waiting for this: ${what}`);
    await sleep(10);
  }
}
