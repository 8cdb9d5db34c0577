/** Linux errno values: where a negative result of the addon becomes a LinuxErrno, and its name. */
import { constants } from 'node:os';
import { getSystemErrorName } from 'node:util';
import type { LinuxErrno } from '../protocol/errno.ts';

const { errno } = constants;

export const EACCES = errno.EACCES as LinuxErrno;
export const EADDRINUSE = errno.EADDRINUSE as LinuxErrno;
export const EADDRNOTAVAIL = errno.EADDRNOTAVAIL as LinuxErrno;
export const EAGAIN = errno.EAGAIN as LinuxErrno;
export const EBUSY = errno.EBUSY as LinuxErrno;
export const ECONNRESET = errno.ECONNRESET as LinuxErrno;
export const EDQUOT = errno.EDQUOT as LinuxErrno;
export const EFAULT = errno.EFAULT as LinuxErrno;
export const EFBIG = errno.EFBIG as LinuxErrno;
export const EINVAL = errno.EINVAL as LinuxErrno;
export const EIO = errno.EIO as LinuxErrno;
export const ELOOP = errno.ELOOP as LinuxErrno;
export const ENAMETOOLONG = errno.ENAMETOOLONG as LinuxErrno;
export const ENODATA = errno.ENODATA as LinuxErrno;
export const ENODEV = errno.ENODEV as LinuxErrno;
export const ENOENT = errno.ENOENT as LinuxErrno;
export const ENOMEM = errno.ENOMEM as LinuxErrno;
export const ENOSPC = errno.ENOSPC as LinuxErrno;
export const ENOSYS = errno.ENOSYS as LinuxErrno;
export const ENOTDIR = errno.ENOTDIR as LinuxErrno;
export const ENOTTY = errno.ENOTTY as LinuxErrno;
export const ENXIO = errno.ENXIO as LinuxErrno;
export const EOPNOTSUPP = errno.EOPNOTSUPP as LinuxErrno;
export const EPERM = errno.EPERM as LinuxErrno;
export const EPIPE = errno.EPIPE as LinuxErrno;
export const ETIMEDOUT = errno.ETIMEDOUT as LinuxErrno;
export const EXDEV = errno.EXDEV as LinuxErrno;
/** libuv gives it no number on Linux. */
export const ESHUTDOWN = 108 as LinuxErrno;

/** The errno of a failed call: `result` is below zero. */
export function errnoOf(result: number): LinuxErrno {
  return -result as LinuxErrno;
}

/** The errno with a name such as `ENOSPC`; undefined for anything else. */
export function errnoNamed(name: unknown): LinuxErrno | undefined {
  const found = Object.entries(errno).find(([known]) => known === name);
  return found?.[1] as LinuxErrno | undefined;
}

/** Names that libuv does not know: EUCLEAN is what ext4 and XFS answer for a corrupt file system. */
const FURTHER_NAMES = new Map([
  ...Object.entries(errno).map(([name, value]) => [value, name] as const),
  [117, 'EUCLEAN'] as const,
]);

/** `ENOSPC` for 28; `errno 9999` for a value that has no name. */
export function errnoName(value: LinuxErrno): string {
  const name = getSystemErrorName(-value);
  // Node 20 answers "Unknown system error -122" instead of throwing, as later versions do.
  return name?.startsWith('E') ? name : (FURTHER_NAMES.get(value) ?? `errno ${value}`);
}
