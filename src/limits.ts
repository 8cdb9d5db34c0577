/**
 * Every upper bound of the server, in one place, each with what breaks above it. Units end the names.
 */

const KIB = 1024;
const MIB = 1024 * KIB;

/** Largest export: above it offsets stop being exact JavaScript numbers (2^53-1). */
export const EXPORT_BYTES_MAX = Number.MAX_SAFE_INTEGER;

/** Largest READ or WRITE: what every client may assume ("Size constraints" in proto.md); memory above it. */
export const PAYLOAD_BYTES_MAX = 32 * MIB;

/**
 * Largest option that is read: a legal GO needs 135,172 bytes (4 + 4096 + 2 + 2 * 65535). Above it memory
 * would follow a stranger's claim.
 */
export const OPTION_BYTES_MAX = 256 * KIB;

/** Larger options are skipped and answered ERR_TOO_BIG up to here; above it the client is cut off. */
export const OPTION_SKIP_BYTES_MAX = 32 * MIB;

/** Options per connection: above it a client could keep a handshake busy until its deadline. */
export const OPTION_COUNT_MAX = 1024;

/** Meta context queries in one option: above it the answers outgrow the question. */
export const META_QUERY_COUNT_MAX = 1024;

/** Exports in one LIST: above it one client's question keeps memory and disk busy. nbdkit stops there, too. */
export const LISTED_EXPORT_COUNT_MAX = 10_000;

/** Exports in a LIST that are answered before others get their turn: a thousand take some 2 ms. */
export const LISTED_EXPORTS_PER_TURN = 500;

/** Seconds from accept to the start of transmission; above it idle strangers hold connections. */
export const HANDSHAKE_SECONDS_DEFAULT = 10;
export const HANDSHAKE_SECONDS_MAX = 3600;

/** Connections at a time; above it descriptors and memory run out (1024 is the usual soft RLIMIT_NOFILE). */
export const CONNECTION_COUNT_DEFAULT = 1024;
export const CONNECTION_COUNT_MAX = 1_000_000;

/** Connections that the kernel holds until they are accepted; it clips this to net.core.somaxconn. */
export const LISTEN_BACKLOG = 1024;

/**
 * Threads that serve (`--threads`). Above it the memory for one largest request each, 32 MiB, and what each
 * thread needs for itself, some 15 MiB, cost more than a machine has cores to gain from.
 */
export const THREAD_COUNT_MAX = 64;

/**
 * Threads that serve unless told, where there are as many processors and the export gains from several: above it nothing
 * was measured.
 */
export const THREAD_COUNT_DEFAULT_MAX = 2;

/** Bytes of payloads and replies in flight per connection; above it the server stops reading from it. */
export const CONNECTION_INFLIGHT_BYTES_MAX = 64 * MIB;

/**
 * The same for the whole process, however many connections there are. Threads divide it among themselves; above
 * eight of them it grows by one largest request for each.
 */
export const PROCESS_INFLIGHT_BYTES_MAX = 256 * MIB;

/**
 * What a connection may always have in flight, also when others have used up the process's budget: without
 * it one greedy client would stop every other. A request of nbdcopy; 256 MiB more for 1024 connections. Above
 * it memory follows the number of connections, below it a few clients that stall starve ordinary copies.
 */
export const CONNECTION_INFLIGHT_BYTES_ASSURED = 256 * KIB;

/** Requests in flight per connection; above it closures and queue entries grow without a byte of payload. */
export const CONNECTION_INFLIGHT_REQUESTS_MAX = 1024;

/**
 * While others wait for the budget: seconds in which a client that has announced a WRITE must send so many bytes of
 * its payload, else it is cut. Without it eight clients that announce 32 MiB each and go silent hold the whole
 * budget for good. 26 KiB/s is less than any link that a copy is worth waiting for.
 */
export const PAYLOAD_STALL_SECONDS_MAX = 10;
export const PAYLOAD_PROGRESS_BYTES_MIN = 256 * KIB;

/**
 * Bytes of the one receive buffer of a connection that has opened an export: fewer system calls for large writes
 * than Node's 64 KiB.
 */
export const RECEIVE_BUFFER_BYTES = MIB;

/** The same until then: above it whoever only connects takes memory that no budget counts. */
export const HANDSHAKE_RECEIVE_BUFFER_BYTES = 16 * KIB;

/** Refused requests of one connection that are logged; above it a client could fill a disk with log lines. */
export const REFUSALS_LOGGED_MAX = 16;

/**
 * Extents in one BLOCK_STATUS reply, for each context; a longer answer is cut short, which the protocol allows. Above
 * it encoding one answer holds up other clients for milliseconds: 16 Ki extents in two contexts take some 5 ms.
 */
export const EXTENT_COUNT_MAX = 4 * KIB;

/**
 * Milliseconds of one turn of the event loop for finding and encoding extents, however many requests ask for them;
 * the step that exceeds it is the last one. Above it other clients wait while a pipeline of BLOCK_STATUS is answered.
 */
export const EXTENTS_TURN_MS_MAX = 1;

/** Milliseconds that one BLOCK_STATUS may search for extents before it answers with what it has. */
export const EXTENT_SEARCH_MS_MAX = 500;

/** Bytes that one CACHE reads ahead, of as many as it asks for: above it a hint would push all else out of memory. */
export const CACHE_BYTES_MAX = 1024 * MIB;

/**
 * Threads of the addon's pool (native/worker_pool.h), which wait for disks, for each thread that serves. Above two of
 * those they divide what two may have: more requests than that are more than disks do at a time. With fewer than four, a
 * write window's wait holds up reads.
 */
export const POOL_THREAD_COUNT_MAX = 16;
export const POOL_THREAD_COUNT_ALL = 32;
export const POOL_THREAD_COUNT_MIN = 4;

/**
 * Microseconds that an event loop polls after serving before it sleeps. Above the default hardly any client is
 * met that the shorter time misses; above the maximum a client that pauses costs more than its requests do.
 */
export const BUSY_POLL_MICROSECONDS_DEFAULT = 50;
export const BUSY_POLL_MICROSECONDS_MAX = 10_000;

/** Seconds that a shutdown waits for requests in flight and their replies. */
export const SHUTDOWN_SECONDS_MAX = 5;

/**
 * Seconds for the last flush of a shutdown whose requests in flight do not end: they may wait for the very disk that
 * is flushed, and above it a service manager would lose its patience.
 */
export const LAST_FLUSH_SECONDS_MAX = 5;

/** Milliseconds without accepting after descriptors or memory ran out. */
export const ACCEPT_PAUSE_MS = 100;

/** Write windows of `--cache none` on their way to disk, for each export: dirty data above it. */
export const WINDOW_COUNT_DEFAULT = 16;
export const WINDOW_COUNT_MAX = 1024;

/** Bytes of merged ranges that fill a window: smaller ones cost small writes their speed. */
export const WINDOW_BYTES_DEFAULT = 1 * MIB;
export const WINDOW_BYTES_MAX = 1024 * MIB;

/** Largest scratch file of `tune`: beyond it the 2^32 numbers behind its random offsets leave pages out. */
export const TUNE_SCRATCH_BYTES_MAX = 1024 * 1024 * MIB;

/** Runs of each setting in `tune`; above it the histograms have long settled, and the disk only wears. */
export const TUNE_REPEAT_COUNT_MAX = 100;

/** Exports that the metrics and the status page show: each is a few series, and a strip of questions. */
export const EXPORTS_SHOWN_MAX = 64;

/** HTTP connections to the metrics and the status page at a time; further ones are closed at once. */
export const METRICS_CONNECTION_COUNT_MAX = 32;

/** Milliseconds that the filter `delay` holds a request back; a timer takes at most 2^31-1 (24 days). */
export const FILTER_DELAY_MS_MAX = 60 * 60 * 1000;

/** Bytes that the filter `readahead` may hold for one export: memory above it. */
export const FILTER_READAHEAD_BYTES_MAX = 1024 * MIB;

/**
 * Memory for the contents of a RAM disk. Below a page and its table nothing can be written; above it the address
 * space is cut into more mappings than the kernel allows a process (vm.max_map_count is 65530).
 */
export const MEMORY_LIMIT_BYTES_MIN = 1 * MIB;
export const MEMORY_LIMIT_BYTES_MAX = 4 * 1024 * 1024 * MIB;

/** Part of the available memory that a RAM disk may take unless told; the rest is for buffers and for others. */
export const MEMORY_LIMIT_FRACTION = 0.8;
