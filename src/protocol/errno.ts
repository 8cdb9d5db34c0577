/**
 * The one place where a Linux errno becomes an NBD error value, at reply time. The wire knows nine values;
 * the real errno is logged before it is lost here.
 */
import {
  NBD_EINVAL,
  NBD_EIO,
  NBD_ENOMEM,
  NBD_ENOSPC,
  NBD_ENOTSUP,
  NBD_EOVERFLOW,
  NBD_EPERM,
  NBD_ESHUTDOWN,
  type NbdErrno,
} from './constants.ts';

/** A Linux errno, above zero (errno(3)). Branded, so that it cannot be put on the wire by mistake. */
export type LinuxErrno = number & { readonly __brand: 'LinuxErrno' };

/** Where some errors are legal and others must be replaced (proto.md, "Error values"). */
export interface ErrnoContext {
  /** The request carried NBD_CMD_FLAG_DF. */
  readonly isDontFragment: boolean;
  /** The request carried NBD_CMD_FLAG_FAST_ZERO. */
  readonly isFastZero: boolean;
}

const EPERM = 1;
const EIO = 5;
const ENOMEM = 12;
const EACCES = 13;
const EFBIG = 27;
const ENOSPC = 28;
const EROFS = 30;
const EOVERFLOW = 75;
const EOPNOTSUPP = 95;
const ESHUTDOWN = 108;
const EDQUOT = 122;

/** The error value for a reply. What is not in the table is a fault of the device, hence EIO. */
export function toNbdErrno(errno: LinuxErrno, context: ErrnoContext): Exclude<NbdErrno, 0> {
  switch (errno as number) {
    case EPERM:
    case EACCES:
    case EROFS:
      return NBD_EPERM;
    case EIO:
      return NBD_EIO;
    case ENOMEM:
      return NBD_ENOMEM;
    case ENOSPC:
    case EDQUOT:
    case EFBIG:
      return NBD_ENOSPC;
    case EOVERFLOW:
      return context.isDontFragment ? NBD_EOVERFLOW : NBD_EINVAL;
    case EOPNOTSUPP:
      return context.isFastZero ? NBD_ENOTSUP : NBD_EINVAL;
    case ESHUTDOWN:
      return NBD_ESHUTDOWN;
    default:
      return NBD_EIO;
  }
}
