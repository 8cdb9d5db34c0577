/** `rate`: no more bytes per second than these, read and written together. */
import { EXPORT_BYTES_MAX } from '../../limits.ts';
import type { Handle, Plugin } from '../../plugins/plugin.ts';
import { defineFilter } from '../filter.ts';
import { FilterError } from '../filter-error.ts';
import { InterceptedHandle, type InterceptedRequest } from '../intercepted-handle.ts';
import { size } from '../options.ts';
import { PassThroughPlugin } from '../pass-through.ts';
import { Waiting } from '../waiting.ts';
import { TokenBucket } from './token-bucket.ts';

/** The bucket unless told otherwise: what a tenth of a second earns. */
const BURST_SECONDS = 0.1;

const bytes = size(1, EXPORT_BYTES_MAX);

export const rateFilter = defineFilter({
  name: 'rate',
  usage: 'rate=SIZE[,connection-rate=SIZE][,burst=SIZE]',
  summary:
    'bytes per second that are read and written, by all clients and by each one; burst: at once after a pause',
  options: { rate: bytes, 'connection-rate': bytes, burst: bytes },
  firstOption: 'rate',
  prepare({ rate, 'connection-rate': connectionRate, burst }) {
    if (rate === undefined && connectionRate === undefined) {
      throw new FilterError('Filter "rate" needs rate=SIZE or connection-rate=SIZE');
    }
    return {
      open: async (inner, { stopping }) =>
        new RatePlugin(
          inner,
          bucketOf(rate, burst),
          () => bucketOf(connectionRate, burst),
          new Waiting(stopping),
        ),
    };
  },
});

function bucketOf(rate: number | undefined, burst: number | undefined): TokenBucket | undefined {
  return rate === undefined ? undefined : new TokenBucket(rate, burst ?? rate * BURST_SECONDS);
}

class RatePlugin extends PassThroughPlugin {
  readonly #bucket: TokenBucket | undefined;
  readonly #connectionBucket: () => TokenBucket | undefined;
  readonly #waiting: Waiting;

  constructor(
    inner: Plugin,
    bucket: TokenBucket | undefined,
    connectionBucket: () => TokenBucket | undefined,
    waiting: Waiting,
  ) {
    super(inner);
    this.#bucket = bucket;
    this.#connectionBucket = connectionBucket;
    this.#waiting = waiting;
  }

  protected override wrap(handle: Handle): Handle {
    const buckets = [this.#bucket, this.#connectionBucket()].filter((bucket) => bucket !== undefined);
    return new RateHandle(handle, buckets, this.#waiting);
  }
}

class RateHandle extends InterceptedHandle {
  readonly #buckets: readonly TokenBucket[];
  readonly #waiting: Waiting;

  constructor(inner: Handle, buckets: readonly TokenBucket[], waiting: Waiting) {
    super(inner);
    this.#buckets = buckets;
    this.#waiting = waiting;
  }

  protected override async around<T>(
    { command, length }: InterceptedRequest,
    work: () => Promise<T>,
  ): Promise<T> {
    if (command === 'read' || command === 'write') {
      const now = performance.now();
      await this.#waiting.wait(Math.max(...this.#buckets.map((bucket) => bucket.take(length, now))));
    }
    return work();
  }
}
