/** A failure below the protocol: the Linux errno, what was attempted, and where. */
import { errnoName } from '../native/errno.ts';
import type { LinuxErrno } from '../protocol/errno.ts';

export class BackendError extends Error {
  override readonly name = 'BackendError';
  readonly errno: LinuxErrno;
  /** The system call or step, such as `pwritev2`. */
  readonly operation: string;
  /** First byte in the export. */
  readonly offset: number;
  /** Bytes, 0 when the operation has no range. */
  readonly length: number;
  /** True when the log has this failure already: it is told to the client only. */
  isLogged = false;

  constructor(errno: LinuxErrno, operation: string, offset = 0, length = 0, message?: string) {
    super(message ?? `${operation} of ${length} bytes at ${offset} failed with ${errnoName(errno)}`);
    this.errno = errno;
    this.operation = operation;
    this.offset = offset;
    this.length = length;
  }
}
