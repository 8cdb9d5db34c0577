import { inspect } from 'node:util';

/**
 * Node 20 has no SuppressedError. When a test fails and its cleanup fails after it, this one shows both, first
 * of all why and where the test failed.
 */
class ReadableSuppressedError extends Error implements SuppressedError {
  override readonly name = 'SuppressedError';
  readonly error: unknown;
  readonly suppressed: unknown;

  constructor(error: unknown, suppressed: unknown) {
    super(`${textOf(suppressed)}\n\nand then, while cleaning up: ${textOf(error)}`);
    this.error = error;
    this.suppressed = suppressed;
    if (suppressed instanceof Error && suppressed.stack !== undefined) this.stack = suppressed.stack;
  }
}

function textOf(thrown: unknown): string {
  return thrown instanceof Error ? thrown.message : inspect(thrown);
}

// The code that stands in for `await using` takes this one if there is one.
Object.defineProperty(globalThis, 'SuppressedError', { value: ReadableSuppressedError, configurable: true });
