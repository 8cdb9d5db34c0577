/** The addon's objects, and what they call; the rules of binding.ts hold for them. */

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
   * The same for several parts of memory, filled in their order but for the first `skip` bytes of them all; `ranges` has two
   * numbers for each array, where the part begins and its length. `isRest` false: nothing is received behind them.
   */
  expect_parts(arrays: readonly Uint8Array[], ranges: Float64Array, skip: number, isRest: boolean): void;
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
  /** A header, then several parts of memory as in `expect_parts`, by sendmsg(2): as `send`. -EOPNOTSUPP with TLS. */
  send_parts(
    header: Uint8Array,
    start: number,
    headerLength: number,
    arrays: readonly Uint8Array[],
    ranges: Float64Array,
  ): number;
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
   * Regular files only. False when it is there, or there is no room; `done` is not called then. It hears how many pages of
   * the range are in the page cache nevertheless.
   */
  read_ahead(offset: number, length: number, changeCount: number, done: Done): boolean;
  /** Copies what was read ahead: `length`, or 0 when not all of the range is there in one piece of 2 MiB. Never waits. */
  take_ahead(buffer: Uint8Array, start: number, length: number, offset: number, changeCount: number): number;
  /** Nobody will ask for the chunks of 2 MiB that were read ahead and begin from `begin` on and before `end`. */
  forget_ahead(begin: number, end: number): void;
  /**
   * The same without a thread and without a look at the cache, for up to 64 KiB (native/direct_queue.h): 0, or -errno
   * when `done` will not be called: -EAGAIN with 256 such reads in flight, -ENOSYS where the system has no AIO.
   * `done` hears -EAGAIN of what would have waited for more than the disk.
   */
  read_queued(buffer: Uint8Array, start: number, length: number, offset: number, done: Done): number;
  /**
   * Tries to write with O_DIRECT: `length`, or -errno, and then a part may have been written. Offset and length are
   * multiples of 4096, else -EINVAL; memory that begins at such an address needs no copy. -EBUSY: something of the range is
   * cached, or that cannot be told. -EAGAIN: a block of it was never written, or there is no memory for a copy. `isRegular`: no block device; -ENODATA where the file ends before the
   * range, -EOPNOTSUPP where its file system does not tell what was written, or has written it through the page cache.
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
