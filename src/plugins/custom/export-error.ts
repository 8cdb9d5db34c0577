/** What the author of a device throws, and what the server makes of it. */
import { inspect } from 'node:util';
import { EIO, errnoNamed } from '../../native/errno.ts';
import { BackendError } from '../backend-error.ts';

/** The errors that a client can be told; ENOTSUP has a meaning in `zero` only. */
export type ExportErrorCode = 'EPERM' | 'EIO' | 'ENOMEM' | 'ENOSPC' | 'ENOTSUP' | 'ESHUTDOWN';

/**
 * Fails a request with a chosen error: `throw new ExportError('ENOSPC', 'The quota is used up')`. Any other error
 * with a `code` of Linux does the same, such as one of node:fs. The message goes to the log, not to the client.
 */
export class ExportError extends Error {
  /** Always `ExportError`. */
  override readonly name = 'ExportError';
  /** What the client is told. */
  readonly code: ExportErrorCode;

  /** `cause` goes to the log, too. */
  constructor(code: ExportErrorCode, message: string = code, options?: { readonly cause?: unknown }) {
    super(message, options);
    this.code = code;
  }
}

/** Whatever was thrown, as the failure of one operation on a range; the log gets it as the cause. */
export function toBackendError(
  thrown: unknown,
  operation: string,
  offset: number,
  length: number,
): BackendError {
  if (thrown instanceof BackendError) {
    return thrown;
  }
  const cause = toError(thrown, operation);
  const failure = new BackendError(
    errnoNamed((cause as { readonly code?: unknown }).code) ?? EIO,
    operation,
    offset,
    length,
  );
  failure.cause = cause;
  return failure;
}

/** What was thrown, in an Error when it is none: strings, undefined and their like have no stack. */
export function toError(thrown: unknown, operation: string): Error {
  return thrown instanceof Error ? thrown : new Error(`${operation} threw ${inspect(thrown, { depth: 0 })}`);
}
