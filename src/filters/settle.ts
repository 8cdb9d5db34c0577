/** Waits for all, also when one fails: what they work on is nobody else's until then. Rejects as the first one. */
export async function allSettled(works: readonly (void | Promise<void>)[]): Promise<void> {
  const failed = (await Promise.allSettled(works)).find((result) => result.status === 'rejected');
  if (failed !== undefined) {
    throw failed.reason;
  }
}

/** Takes every step, one after the other, also when one fails. Rejects as the first one that did. */
export async function everyStep(...steps: readonly (() => void | Promise<void>)[]): Promise<void> {
  const errors: unknown[] = [];
  for (const step of steps) {
    try {
      await step();
    } catch (error) {
      errors.push(error);
    }
  }
  if (errors.length > 0) {
    throw errors[0];
  }
}
