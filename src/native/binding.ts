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

/** Called once on the event loop: a result of zero or more, or -errno. */
export type Done = (result: number) => void;

/**
 * As Done; for an error `offset` and `length` name the range in bytes whose wait was told. The kernel keeps one
 * error mark per open file: one report may stand for several ranges, and the page lost be in another one.
 */
export type RangeDone = (result: number, offset: number, length: number) => void;

/** Called with a connected, non-blocking, close-on-exec descriptor, or -errno (EMFILE, ENFILE, ENOMEM...). */
export type Accepted = (descriptor: number) => void;

/**
 * A listening socket watched by the event loop. It owns its descriptor. While it accepts it keeps the process
 * alive; paused it does not. It is never garbage collected before `close`.
 *
 * An error (-EMFILE, -ENFILE, -ENOBUFS, -ENOMEM: no room for another connection; or the listener itself is
 * broken) pauses it before `accepted` is told, once: polling on would spin. The owner calls `resume` after a
 * back-off. Errors of single connections (ECONNABORTED and its like) are skipped.
 */
export interface Listener {
  /** Stops and restarts accepting; connections wait in the kernel's backlog meanwhile. No-ops once closed. */
  pause(): void;
  resume(): void;
  /** Closes the listening descriptor. Idempotent; allowed inside `accepted`, which is not called again. */
  close(): void;
}

/**
 * How a server proves itself and whom it lets in (native/tls_context.h). PEM texts, '' for what there is none of;
 * `ciphers` of TLS 1.2 and `suites` of TLS 1.3 in OpenSSL's syntax.
 */
export interface TlsContext {
  /** Before the first connection. */
  add_psk(identity: string, key: Uint8Array, start: number, length: number): void;
}

/** How a handshake has ended: the reason why it failed, or '' and what is in use, such as `TLSv1.3`. */
export type Secured = (failure: string, protocol: string, cipher: string) => void;

/**
 * A connected stream socket watched by the event loop. It owns its descriptor from the constructor on, and sets
 * TCP_NODELAY, SO_KEEPALIVE and, inside one host, TCP_CONGESTION. While it reads, or waits to write, it keeps the process
 * alive. It is never garbage collected before `close`; after that every call answers -EBADF.
 */
export interface StreamSocket {
  /** How the other end is reached: ROUTE_UNIX, ROUTE_TCP_ON_THIS_HOST or ROUTE_TCP. */
  route(): number;
  /**
   * Begins a handshake of TLS as the server; all that was sent is with the kernel. Nothing else is received until `secured` is
   * called; whether `start` or `stop` was called last counts again then. From then on the caller sees plaintext, and the
   * functions for files answer that they cannot. 0, or -errno: -EALREADY when it is called again.
   */
  start_tls(context: TlsContext, secured: Secured): number;
  /** Starts and stops receiving into the constructor's buffer, or the last of `set_buffer`; it stands still at first. */
  start(): number;
  stop(): void;
  /** From the next receive on, bytes go to `buffer` from `start` on, up to `length`. Lets the one before go. */
  set_buffer(buffer: Uint8Array, start: number, length: number): void;
  /**
   * The next `length` bytes received go to `buffer` from `start` on, and at most 4 KiB behind them
   * where they usually go. The results of `received` count both. Forgotten at `stop`.
   */
  expect(buffer: Uint8Array, start: number, length: number): void;
  /**
   * The next `length` bytes received go to the file from `offset` on, in pieces that `received` tells; nothing behind them is
   * received together with them. Forgotten when all are there, when `file_state` is negative, at `stop`, and by
   * `leave_file` and `expect_nothing`. `mustBeInside`: what lies past the file's end is not written (native/splice_pipe.h). False: it
   * cannot be done.
   */
  expect_in_file(file: number, offset: number, length: number, mustBeInside: boolean): boolean;
  /**
   * The rest of these bytes goes to no file. Those that were received and not told, of a page that is not whole, are put
   * into `buffer` from `start` on: how many. `length`: how many there may be, those to come included.
   */
  leave_file(buffer: Uint8Array, start: number, length: number): number;
  /** Forgets what was expected: bytes go where they usually go. */
  expect_nothing(): void;
  /**
   * Of the last piece for a file: 0, the microseconds that its write took when it had to wait (1: the file takes no
   * splices), or -errno when it is not all there (-ENODATA: the end).
   */
  file_state(): number;
  /** At most so many bytes at a time go where they usually go; 0: as many as there is room for. */
  limit(length: number): void;
  /**
   * send(2) without waiting: bytes taken, fewer than `length` where the kernel is full, or -EAGAIN for none. The next bytes
   * that are sent must be the rest: with TLS some of them may be encrypted already. -EPROTO: the stream is broken.
   */
  send(buffer: Uint8Array, start: number, length: number): number;
  /**
   * A header, then `length` bytes of a file straight from the page cache (sendfile(2)): bytes taken of both together, or
   * -errno for none, -EAGAIN where the kernel is full. What is not in the cache is waited for: ask `is_resident` first.
   * 0 when only the file is left, and ends before `offset`.
   */
  send_file(
    header: Uint8Array,
    start: number,
    headerLength: number,
    file: number,
    offset: number,
    length: number,
  ): number;
  /** Calls `writable` once, when `send` can go on, or knows an error. */
  watch_writable(): number;
  /** shutdown(2) of the sending half, with TLS behind a close_notify: -EAGAIN when that has no room, and needs another call. */
  shut_down(): number;
  /** Closes the descriptor. Idempotent; allowed inside `received` and `writable`, which are not called again. */
  close(): void;
}

/** Ranges written through the page cache on their way to disk and out of it (native/write_windows.h). */
export interface WriteWindows {
  /**
   * Records a written range; it is rounded outwards to whole pages and merged with its neighbours.
   * Returns true when a window is full: the caller then calls `advance` and delays its reply until `done`.
   * A write of a whole window's size or more fills one alone.
   */
  add(offset: number, length: number): boolean;
  /**
   * Starts write-back of full windows; waits for and evicts the oldest ones beyond the window count. Windows
   * that other calls are waiting for do not count. `done` hears the first failure of this call's windows; the
   * rest has been written back and evicted all the same.
   */
  advance(done: RangeDone): void;
  /**
   * Writes back, waits for and evicts everything recorded before this call, what concurrent calls have in
   * hand included: their failures are reported here too. The descriptor stays open until `done`. Clean large
   * folios that straddle a range may stay (native/write_windows.h): sweep whole chunks afterwards.
   */
  drain(done: RangeDone): void;
  /** Bytes recorded and not yet evicted, in whole pages; those being waited for included. */
  pending_bytes(): number;
  /** Windows so far that were given to the disk, waited for (whether or not that failed), and evicted whole. */
  counts(): readonly [written: number, waited: number, evicted: number];
}

/** native/direct_file: reads and writes that leave nothing in the page cache. */
export interface DirectFile {
  /**
   * Reads until `length` bytes or the end of the file, with O_DIRECT where nothing of the range is cached (by
   * cachestat), else through the cache, and what was read ahead from there. Any alignment: bytes read, or -errno.
   * `changeCount`: how often the server has changed the file so far; any number where nothing is read ahead.
   */
  read(
    buffer: Uint8Array,
    start: number,
    length: number,
    offset: number,
    changeCount: number,
    done: Done,
  ): void;
  /**
   * Reads from `offset`, a multiple of 2 MiB, up to that much ahead of the reads that will ask for it (native/ahead_chunks.h).
   * Regular files only. False when it is there, or there is no room; `done` is not called then.
   */
  read_ahead(offset: number, length: number, changeCount: number, done: Done): boolean;
  /** Copies what was read ahead: `length`, or 0 when not all of the range is there in one piece of 2 MiB. Never waits. */
  take_ahead(buffer: Uint8Array, start: number, length: number, offset: number, changeCount: number): number;
  /** Nobody will ask for what was read ahead. */
  forget_ahead(): void;
  /**
   * The same without a thread and without a look at the cache, for up to 64 KiB (native/direct_queue.h): 0, or -errno
   * when `done` will not be called: -EAGAIN with 256 such reads in flight, -ENOSYS where the system has no AIO.
   * `done` hears -EAGAIN of what would have waited for more than the disk.
   */
  read_queued(buffer: Uint8Array, start: number, length: number, offset: number, done: Done): number;
  /**
   * Tries to write with O_DIRECT: `length`, or -errno, and then a part may have been written. Offset and length are
   * multiples of 4096, else -EINVAL; memory that begins at such an address needs no copy. -EAGAIN: something of the range is
   * cached, or a block of it was never written. `isRegular`: no block device; -ENODATA where the file ends before the
   * range, -EOPNOTSUPP where its file system does not tell what was written.
   */
  write(
    buffer: Uint8Array,
    start: number,
    length: number,
    offset: number,
    isRegular: boolean,
    done: Done,
  ): void;
  /** Forgets what was read ahead, and gives memory back that no read or write of any file is using: 2 MiB for each that was ever under way at a time. */
  release(): void;
}

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
  /** `microseconds`: 0 (off, as it begins) to 1000000. Not while a listener or socket has nothing to do. */
  set_busy_poll(microseconds: number): void;

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
