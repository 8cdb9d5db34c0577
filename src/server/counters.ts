/**
 * What one thread has done so far, in numbers that another thread may read. Each thread that serves has its own
 * memory and is the only one to write to it; whoever shows the numbers reads all of them and adds them up.
 *
 *   slots: connections and windows | for each command: requests, bytes, seconds, buckets | for each error: count
 *
 * Every number only grows, so there is nothing to lock: a reader sees each of them a moment old, and two of them
 * not quite from the same moment. They are doubles, exact to 2^53, whose aligned loads and stores the 64-bit
 * machines that Node runs on never tear. Not Atomics, which know no doubles.
 *
 * Cost on the fast path: some ten additions to a typed array, 10 ns. The clock is what costs, 55 ns a reading
 * (2 cores, 2026-11), and a latency takes two, 3 % of a request at 250 k a second; so only one READ or WRITE in
 * TIMED_INTERVAL is timed, and nothing when nobody wants latencies.
 */
import type { WindowCounter } from '../plugins/window-counter.ts';
import {
  NBD_CMD_BLOCK_STATUS,
  NBD_CMD_CACHE,
  NBD_CMD_FLUSH,
  NBD_CMD_READ,
  NBD_CMD_TRIM,
  NBD_CMD_WRITE,
  NBD_CMD_WRITE_ZEROES,
  NBD_EINVAL,
  NBD_EIO,
  NBD_ENOMEM,
  NBD_ENOSPC,
  NBD_ENOTSUP,
  NBD_EOVERFLOW,
  NBD_EPERM,
  NBD_ESHUTDOWN,
  type NbdErrno,
} from '../protocol/constants.ts';

/** What is counted on its own; whatever else a client asks for is `unknown`. */
export const COMMANDS = [
  'read',
  'write',
  'flush',
  'trim',
  'cache',
  'write_zeroes',
  'block_status',
  'unknown',
] as const;

export type Command = (typeof COMMANDS)[number];

const UNKNOWN = COMMANDS.indexOf('unknown');

/** An index of COMMANDS for each command number of the protocol. */
const COMMAND_INDEX = new Uint8Array(NBD_CMD_BLOCK_STATUS + 1).fill(UNKNOWN);
COMMAND_INDEX[NBD_CMD_READ] = COMMANDS.indexOf('read');
COMMAND_INDEX[NBD_CMD_WRITE] = COMMANDS.indexOf('write');
COMMAND_INDEX[NBD_CMD_FLUSH] = COMMANDS.indexOf('flush');
COMMAND_INDEX[NBD_CMD_TRIM] = COMMANDS.indexOf('trim');
COMMAND_INDEX[NBD_CMD_CACHE] = COMMANDS.indexOf('cache');
COMMAND_INDEX[NBD_CMD_WRITE_ZEROES] = COMMANDS.indexOf('write_zeroes');
COMMAND_INDEX[NBD_CMD_BLOCK_STATUS] = COMMANDS.indexOf('block_status');

/** The errors that a reply can carry. */
export const ERRORS: readonly (readonly [string, Exclude<NbdErrno, 0>])[] = [
  ['EPERM', NBD_EPERM],
  ['EIO', NBD_EIO],
  ['ENOMEM', NBD_ENOMEM],
  ['EINVAL', NBD_EINVAL],
  ['ENOSPC', NBD_ENOSPC],
  ['EOVERFLOW', NBD_EOVERFLOW],
  ['ENOTSUP', NBD_ENOTSUP],
  ['ESHUTDOWN', NBD_ESHUTDOWN],
];

/** Buckets of latency: up to 1 us, 2 us, 4 us ... 33.6 s, and beyond. */
const BOUND_COUNT = 26;

/** Upper bounds of the buckets in seconds; a last bucket takes what is above all of them. */
export const LATENCY_BOUNDS: readonly number[] = Array.from(
  { length: BOUND_COUNT },
  (_, index) => 2 ** index / 1e6,
);

/**
 * Of how many READs, and of how many WRITEs, one is timed. A prime: clients send in batches of 2^n requests, and
 * it must not always be the first of a batch.
 */
export const TIMED_INTERVAL = 17;

const OPENED = 0;
const CLOSED = 1;
const REFUSED = 2;
const WINDOWS_WRITTEN = 3;
const WINDOWS_WAITED = 4;
const WINDOWS_EVICTED = 5;
const COMMANDS_START = 6;

/** Of the slots of a command. */
const REQUESTS = 0;
const BYTES = 1;
const SECONDS = 2;
const BUCKETS = 3;
const COMMAND_SLOTS = BUCKETS + BOUND_COUNT + 1;

const ERRORS_START = COMMANDS_START + COMMANDS.length * COMMAND_SLOTS;
const SLOT_COUNT = ERRORS_START + ERRORS.length;

/** The slot of each error value. */
const ERROR_SLOTS: ReadonlyMap<NbdErrno, number> = new Map(
  ERRORS.map(([, errno], index) => [errno, ERRORS_START + index]),
);

/** Requests of one command. */
export interface CommandCounts {
  /** Requests that were answered, errors included. */
  readonly requests: number;
  /** That the answered requests were about; errors have none. */
  readonly bytes: number;
  /** Timed requests by latency, as many as LATENCY_BOUNDS and one more: counts that are not cumulative. */
  readonly buckets: readonly number[];
  /** The latencies of the timed requests together. */
  readonly seconds: number;
}

/** What several threads have done so far. */
export interface CounterTotals {
  readonly connectionsOpened: number;
  readonly connectionsClosed: number;
  /** Closed at once, because there were too many. */
  readonly connectionsRefused: number;
  /** Write windows that were given to the disk, waited for, and evicted from the page cache. */
  readonly windowsWritten: number;
  readonly windowsWaited: number;
  readonly windowsEvicted: number;
  readonly commands: Readonly<Record<Command, CommandCounts>>;
  /** Error replies by the name of their error value. */
  readonly errors: Readonly<Record<string, number>>;
}

export class Counters implements WindowCounter {
  /** Hand it to another thread, which adds it up by `sumCounters`. */
  readonly memory: SharedArrayBuffer;
  readonly #numbers: Float64Array;
  readonly #isTiming: boolean;
  /** READs and WRITEs until one is timed, by command. */
  readonly #untimed = new Uint8Array(2);

  /** `isTiming`: read the clock for latencies. `memory` comes from another `Counters`, or is made here. */
  constructor(
    isTiming: boolean,
    memory = new SharedArrayBuffer(SLOT_COUNT * Float64Array.BYTES_PER_ELEMENT),
  ) {
    this.memory = memory;
    this.#numbers = new Float64Array(memory);
    this.#isTiming = isTiming;
  }

  connectionOpened(): void {
    this.#add(OPENED, 1);
  }

  connectionClosed(): void {
    this.#add(CLOSED, 1);
  }

  connectionRefused(): void {
    this.#add(REFUSED, 1);
  }

  countWindows(written: number, waited: number, evicted: number): void {
    this.#add(WINDOWS_WRITTEN, written);
    this.#add(WINDOWS_WAITED, waited);
    this.#add(WINDOWS_EVICTED, evicted);
  }

  /** When a request is taken on: the time for `answered`, or 0 for a request that is not timed. */
  startTime(command: number): number {
    if (!this.#isTiming) {
      return 0;
    }
    if (command === NBD_CMD_READ || command === NBD_CMD_WRITE) {
      // The first one is timed: a few requests are worth showing, too.
      const untimed = this.#untimed[command] ?? 0;
      this.#untimed[command] = untimed > 0 ? untimed - 1 : TIMED_INTERVAL - 1;
      if (untimed > 0) {
        return 0;
      }
    }
    return performance.now();
  }

  /** A request about `bytes` bytes has been answered. `startTime` is what the method of that name told. */
  answered(command: number, bytes: number, startTime: number): void {
    const slot = commandSlot(command);
    this.#add(slot + REQUESTS, 1);
    this.#add(slot + BYTES, bytes);
    if (startTime !== 0) {
      const milliseconds = performance.now() - startTime;
      this.#add(slot + SECONDS, milliseconds / 1000);
      this.#add(slot + BUCKETS + bucketOf(milliseconds * 1000), 1);
    }
  }

  /** A request has been answered with an error. */
  failed(command: number, errno: Exclude<NbdErrno, 0>, startTime: number): void {
    this.answered(command, 0, startTime);
    const slot = ERROR_SLOTS.get(errno);
    if (slot === undefined) {
      throw new Error(`Bug: the error value ${errno} is not counted`);
    }
    this.#add(slot, 1);
  }

  #get(slot: number): number {
    return this.#numbers[slot] ?? 0;
  }

  #add(slot: number, amount: number): void {
    this.#numbers[slot] = this.#get(slot) + amount;
  }
}

/** Adds up what threads have done, by the memory of their counters. */
export function sumCounters(memories: readonly SharedArrayBuffer[]): CounterTotals {
  const sums = new Float64Array(SLOT_COUNT);
  for (const memory of memories) {
    for (const [slot, number] of new Float64Array(memory).entries()) {
      sums[slot] = (sums[slot] ?? 0) + number;
    }
  }
  const at = (slot: number): number => sums[slot] ?? 0;
  const commandCounts = (index: number): CommandCounts => {
    const slot = COMMANDS_START + index * COMMAND_SLOTS;
    return {
      requests: at(slot + REQUESTS),
      bytes: at(slot + BYTES),
      seconds: at(slot + SECONDS),
      buckets: [...sums.subarray(slot + BUCKETS, slot + COMMAND_SLOTS)],
    };
  };
  return {
    connectionsOpened: at(OPENED),
    connectionsClosed: at(CLOSED),
    connectionsRefused: at(REFUSED),
    windowsWritten: at(WINDOWS_WRITTEN),
    windowsWaited: at(WINDOWS_WAITED),
    windowsEvicted: at(WINDOWS_EVICTED),
    commands: Object.fromEntries(
      COMMANDS.map((name, index) => [name, commandCounts(index)]),
    ) as unknown as Record<Command, CommandCounts>,
    errors: Object.fromEntries(ERRORS.map(([name], index) => [name, at(ERRORS_START + index)])),
  };
}

function commandSlot(command: number): number {
  return COMMANDS_START + (COMMAND_INDEX[command] ?? UNKNOWN) * COMMAND_SLOTS;
}

/** The first bucket whose bound is not below `microseconds`. */
function bucketOf(microseconds: number): number {
  // clz32 counts in 32 bits; half an hour is beyond the last bound already.
  const whole = Math.min(Math.ceil(microseconds), 2 ** 31);
  return Math.min(whole <= 1 ? 0 : 32 - Math.clz32(whole - 1), BOUND_COUNT);
}
