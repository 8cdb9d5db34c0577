/** `delay`: requests that take their time, for tests of clients. */
import { FILTER_DELAY_MS_MAX } from '../../limits.ts';
import type { Handle, Plugin } from '../../plugins/plugin.ts';
import { defineFilter } from '../filter.ts';
import { FilterError } from '../filter-error.ts';
import { type Command, InterceptedHandle, type InterceptedRequest } from '../intercepted-handle.ts';
import { duration } from '../options.ts';
import { PassThroughPlugin } from '../pass-through.ts';
import { Waiting } from '../waiting.ts';

/** Milliseconds before a request goes on. */
type Delays = Readonly<Partial<Record<Command, number>>>;

const time = duration(FILTER_DELAY_MS_MAX);

export const delayFilter = defineFilter({
  name: 'delay',
  usage: 'COMMAND=TIME[,COMMAND=TIME...]',
  summary: 'hold read, write, flush, trim, zero, cache or extents back for a while, such as read=10ms',
  options: { read: time, write: time, flush: time, trim: time, zero: time, cache: time, extents: time },
  prepare(delays) {
    if (Object.keys(delays).length === 0) {
      throw new FilterError('Filter "delay" needs a command and a time, such as delay:read=10ms');
    }
    return { open: async (inner, { stopping }) => new DelayPlugin(inner, delays, new Waiting(stopping)) };
  },
});

class DelayPlugin extends PassThroughPlugin {
  readonly #delays: Delays;
  readonly #waiting: Waiting;

  constructor(inner: Plugin, delays: Delays, waiting: Waiting) {
    super(inner);
    this.#delays = delays;
    this.#waiting = waiting;
  }

  protected override wrap(handle: Handle): Handle {
    return new DelayHandle(handle, this.#delays, this.#waiting);
  }
}

class DelayHandle extends InterceptedHandle {
  readonly #delays: Delays;
  readonly #waiting: Waiting;

  constructor(inner: Handle, delays: Delays, waiting: Waiting) {
    super(inner);
    this.#delays = delays;
    this.#waiting = waiting;
  }

  protected override async around<T>({ command }: InterceptedRequest, work: () => Promise<T>): Promise<T> {
    await this.#waiting.wait(this.#delays[command] ?? 0);
    return work();
  }
}
