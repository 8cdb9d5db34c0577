/** Flags of the Linux calls behind the addon, under their own names (linux/fs.h, linux/falloc.h, fcntl.h). */

// preadv2(2), pwritev2(2).
export const RWF_NOWAIT = 0x08;

// fallocate(2).
export const FALLOC_FL_KEEP_SIZE = 0x01;
export const FALLOC_FL_PUNCH_HOLE = 0x02;
export const FALLOC_FL_ZERO_RANGE = 0x10;

// posix_fadvise(2).
export const POSIX_FADV_NORMAL = 0;
export const POSIX_FADV_RANDOM = 1;
export const POSIX_FADV_SEQUENTIAL = 2;
export const POSIX_FADV_DONTNEED = 4;

// sync_file_range(2).
export const SYNC_FILE_RANGE_WAIT_BEFORE = 1;
export const SYNC_FILE_RANGE_WRITE = 2;
export const SYNC_FILE_RANGE_WAIT_AFTER = 4;

// lseek(2).
export const SEEK_END = 2;
export const SEEK_DATA = 3;
export const SEEK_HOLE = 4;

// open(2): a descriptor that names a file and opens nothing. The same on every architecture that Node has.
export const O_PATH = 0x20_0000;

// openat2(2).
export const RESOLVE_NO_MAGICLINKS = 0x02;
export const RESOLVE_NO_SYMLINKS = 0x04;
export const RESOLVE_BENEATH = 0x08;

// fcntl(2), struct flock.
export const F_RDLCK = 0;
export const F_WRLCK = 1;
export const F_UNLCK = 2;

// native/socket.h, Route: the way to a socket's other end. ROUTE_UNIX for what is neither.
export const ROUTE_UNIX = 0;
export const ROUTE_TCP_ON_THIS_HOST = 1;
export const ROUTE_TCP = 2;
