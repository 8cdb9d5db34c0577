/**
 * The typed face of the C++ addon, and the only place that loads it.
 *
 * Every function returns (or passes to its `done`) a result below zero for an error: -errno, read once, at
 * the call. Nothing here throws for a failing system call (constructors excepted); a wrong argument type
 * throws a TypeError, a number outside its range or a slice outside its buffer a RangeError, naming it.
 * Functions without `done` run on the calling thread and are used only where they cannot wait for a disk.
 * Functions with `done` run on the addon's own thread pool (`set_pool_size`), retry EINTR and short
 * transfers, and keep their buffer alive until `done` has been called, exactly once, on the event loop.
 * What `done` throws becomes an uncaughtException. A pending operation keeps the process from exiting. An
 * environment that ends first (a terminated worker) waits for what runs, drops what is queued, and calls no
 * `done` any more; process.exit on the main thread waits for nothing. Until `done` the caller keeps the
 * descriptor open, and does not transfer the buffer's ArrayBuffer to another thread (Node-API cannot pin it).
 * Offsets and lengths are whole numbers from 0 to 2^53-1.
 */
import { createRequire } from 'node:module';
import { buildErrorFrom } from './build-error.ts';
import type {
  Accepted,
  DirectFile,
  Done,
  Listener,
  StreamSocket,
  TlsContext,
  WriteWindows,
} from './objects.ts';

export type {
  DirectFile,
  Done,
  Listener,
  RangeDone,
  Secured,
  StreamSocket,
  TlsContext,
  WriteWindows,
} from './objects.ts';

export interface Binding {
  /** True when the addon was compiled with the Linux calls; else all of them answer -ENOSYS. */
  readonly linux: boolean;

  // native/worker_pool: threads are started on demand, up to `count` (1 to 256; 16 unless set), and joined at
  // exit. Each environment (main thread, worker) has its own.
  set_pool_size(count: number): void;

  /**
   * _exit(2), 0 to 255: ends the process without waiting for its threads. process.exit waits for worker threads,
   * and those for the calls in their pools, which a dead NFS server never answers.
   */
  exit_now(code: number): never;

  // native/busy_poll: how long this environment's event loop polls after serving before it sleeps.
  /**
   * `microseconds`: 0 (off, as it begins) to 1000000. Not while a listener or socket has nothing to do. `isOneOfMany`: other
   * environments of the process poll, too.
   */
  set_busy_poll(microseconds: number, isOneOfMany: boolean): void;

  // native/file_io
  /** preadv2(2), one try. `flags`: RWF_NOWAIT (returns -EAGAIN where it would wait). Bytes read, short at EOF. */
  preadv2(
    fd: number,
    buffer: Uint8Array,
    start: number,
    length: number,
    offset: number,
    flags: number,
  ): number;
  /** pwritev2(2) with EINTR and short writes retried: `length`, or -errno although a part may be written. */
  pwritev2(
    fd: number,
    buffer: Uint8Array,
    start: number,
    length: number,
    offset: number,
    flags: number,
  ): number;
  /** Reads until `length` bytes or the end of the file: bytes read. */
  pread_async(
    fd: number,
    buffer: Uint8Array,
    start: number,
    length: number,
    offset: number,
    done: Done,
  ): void;
  /** As pwritev2. `flags`: RWF_DSYNC. */
  pwrite_async(
    fd: number,
    buffer: Uint8Array,
    start: number,
    length: number,
    offset: number,
    flags: number,
    done: Done,
  ): void;
  /** Into a regular file that is long enough when its turn comes: `length`, -ENODATA where it ends before, or -errno. */
  pwrite_inside_async(
    fd: number,
    buffer: Uint8Array,
    start: number,
    length: number,
    offset: number,
    done: Done,
  ): void;
  /**
   * openat2(2): a close-on-exec descriptor of `path` below `dirfd`. `resolve`: RESOLVE_*. -ENOSYS before Linux
   * 5.6 and -EPERM in sandboxes that do not know it.
   */
  openat2(dirfd: number, path: string, flags: number, resolve: number, done: Done): void;
  fdatasync(fd: number, done: Done): void;
  /** Bytes of a regular file now, or -errno. statx(2) with AT_STATX_DONT_SYNC: it never waits. */
  file_size(fd: number): number;
  /** lseek(2); `whence`: SEEK_DATA or SEEK_HOLE. The offset found, or -ENXIO where there is none behind `offset`. */
  lseek(fd: number, offset: number, whence: number, done: Done): void;
  /** fallocate(2) with FALLOC_FL_* in `mode`. */
  fallocate(fd: number, mode: number, offset: number, length: number, done: Done): void;
  /** ioctl BLKROGET: 1 when a block device is read-only (open(2) lets it be opened for writing), else 0. */
  blkroget(fd: number): number;
  /** ioctl BLKZEROOUT and BLKDISCARD (linux/fs.h) on a block device. */
  blkzeroout(fd: number, offset: number, length: number, done: Done): void;
  blkdiscard(fd: number, offset: number, length: number, done: Done): void;
  /** fcntl F_OFD_SETLK, never waiting. `type`: F_RDLCK 0, F_WRLCK 1, F_UNLCK 2. 0, or -EAGAIN when held. */
  ofd_setlk(fd: number, type: number, start: number, length: number): number;
  /** fcntl F_OFD_GETLK: 1 when another open file description's lock would refuse this one, else 0. */
  ofd_getlk(fd: number, type: number, start: number, length: number): number;

  // native/memory
  /**
   * Copies as many bytes as both ranges have. With shared memory `set` copies in atomic steps of 8 bytes, or of one where the
   * ranges are not aligned alike: 4 KiB take 1.2 us instead of 0.2, 64 KiB 19 instead of 4.4. Other threads that touch the
   * same bytes meanwhile see, or leave behind, some of each.
   */
  copy_memory(
    target: Uint8Array,
    targetStart: number,
    targetLength: number,
    source: Uint8Array,
    sourceStart: number,
    sourceLength: number,
  ): void;
  /**
   * Gives whole pages of a SharedArrayBuffer's or ArrayBuffer's memory back to the system: they read as zeros
   * afterwards. 0; -EINVAL unless they begin and end on pages; -ENOSYS off Linux. On failure nothing has changed.
   */
  discard_memory(buffer: Uint8Array, start: number, length: number): number;

  /**
   * Asks the system to make the first aligned 2 MiB inside the range a huge page (madvise(2), MADV_HUGEPAGE): bytes from
   * `start` to there, whether or not the wish is granted, or -EINVAL when there is no such place.
   */
  prefer_huge_page(buffer: Uint8Array, start: number, length: number): number;

  // native/page_cache
  posix_fadvise(fd: number, offset: number, length: number, advice: number, done: Done): void;
  /** POSIX_FADV_WILLNEED on the whole range, also where it is longer than one call of the kernel takes. */
  read_ahead(fd: number, offset: number, length: number, done: Done): void;
  /** POSIX_FADV_DONTNEED on `count` / 2 ranges: pairs of offset and length, copied. 0, or the first error. */
  evict_ranges(fd: number, ranges: Float64Array, count: number, done: Done): void;
  sync_file_range(fd: number, offset: number, length: number, flags: number, done: Done): void;
  /**
   * cachestat(2), with mincore(2) before Linux 6.5. `length` 0: to the end of the file. Fills `counts`
   * (five numbers, in pages of `page_size`): cached, dirty, write-back, evicted, recently evicted; with
   * mincore all but the first are -1.
   */
  cachestat(fd: number, offset: number, length: number, counts: Float64Array, done: Done): void;
  /** The first count of `cachestat`, at once: pages of a range of a few MiB that are in the cache, or -errno. */
  cached_pages(fd: number, offset: number, length: number): number;
  /**
   * Resident pages by mincore(2), the fallback of `cachestat`, here for its tests. Needs a descriptor open for
   * reading. On a file that is neither ours nor writable the kernel calls every page resident.
   */
  mincore_resident(fd: number, offset: number, length: number, done: Done): void;
  /**
   * 1 when every page of a range of a few MiB is in the cache and has been read, else 0, or -errno. Waits for nothing. Of
   * a file that is neither ours nor writable the kernel calls every page resident.
   */
  is_resident(fd: number, offset: number, length: number): number;
  /**
   * Makes folios of one page of what is resident of a range, where it can: dirty ones stay as they are. Nothing is read
   * from the disk and nothing leaves the cache. 0, or -errno: -EINVAL before Linux 5.14.
   */
  split_folios(fd: number, offset: number, length: number, done: Done): void;
  readonly page_size: number;

  // native/direct_file
  /** `fd` reads through the page cache, `directFd` was opened with O_DIRECT; both stay the caller's. */
  DirectFile: new (
    fd: number,
    directFd: number,
  ) => DirectFile;

  // native/write_windows
  /** `windowCount` 0 to 4096: full windows that stay in flight; `windowBytesMax` at least 1. */
  WriteWindows: new (
    fd: number,
    windowCount: number,
    windowBytesMax: number,
  ) => WriteWindows;

  // native/socket
  /**
   * A listening Unix stream socket with the permission bits `mode` (less the umask) from the start: descriptor
   * or -errno. -ENAMETOOLONG from 108 bytes; -EADDRINUSE where something is, also a stale socket.
   */
  listen_unix(path: string, mode: number, backlog: number): number;
  /**
   * A listening TCP socket on a numeric IPv4 or IPv6 address (SO_REUSEADDR, IPV6_V6ONLY; `%scope` may follow):
   * descriptor or -errno.
   */
  listen_tcp(address: string, port: number, backlog: number): number;
  /** The TCP port that a listening descriptor is bound to, or -errno. */
  local_port(fd: number): number;
  /** The path or numeric address that a socket is bound to, '' for a Unix socket without a path, or -errno. */
  local_address(fd: number): string | number;
  /** The other end of a connected socket: `address:port`, `[address]:port`, or the path of a Unix socket, mostly empty. */
  peer_address(fd: number): string | number;
  /**
   * Bytes, and the goodbye, that a connected socket has sent and the other end's kernel has not acknowledged, or
   * -errno: closing a socket with unread input drops them. Always 0 for a Unix socket, which drops nothing.
   */
  unacknowledged(fd: number): number;
  /**
   * Makes an inherited listening stream socket non-blocking and close-on-exec: its family, AF_UNIX, AF_INET or
   * AF_INET6, or -errno (-EINVAL for another kind of socket).
   */
  adopt_listener(fd: number): number;
  /** One datagram to a Unix socket, `@name` being an abstract one; waits for its reader for up to 5 s. */
  notify(path: string, message: string, done: Done): void;
  /** Throws an Error when the descriptor cannot be watched; it then stays the caller's. */
  Listener: new (
    fd: number,
    accepted: Accepted,
  ) => Listener;

  // native/tls_context
  /** Throws an Error with OpenSSL's reason when the texts cannot be used. */
  TlsContext: new (
    ca: string,
    certificate: string,
    key: string,
    crl: string,
    ciphers: string,
    suites: string,
    isPeerVerified: boolean,
  ) => TlsContext;

  // native/stream_socket
  /**
   * `received` is called with the number of bytes in `buffer` from `start` on, 0 at the end of the stream, or
   * -errno (-EPROTO: it is not TLS, or was tampered with). Throws an Error when the descriptor cannot be watched; it then
   * stays the caller's.
   */
  StreamSocket: new (
    fd: number,
    buffer: Uint8Array,
    start: number,
    length: number,
    received: (result: number) => void,
    writable: () => void,
  ) => StreamSocket;
}

export const native = load();

function load(): Binding {
  try {
    return createRequire(import.meta.url)('../../build/Release/nbd_serve.node') as Binding;
  } catch (error) {
    throw buildErrorFrom(error) ?? error;
  }
}
