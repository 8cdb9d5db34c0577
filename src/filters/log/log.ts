/** `log`: a line for every request, with its result and its time. */
import { resolve } from 'node:path';
import { errnoName } from '../../native/errno.ts';
import { BackendError } from '../../plugins/backend-error.ts';
import type { Handle, Plugin } from '../../plugins/plugin.ts';
import { defineFilter, type FilterContext } from '../filter.ts';
import { InterceptedHandle, type InterceptedRequest } from '../intercepted-handle.ts';
import { path } from '../options.ts';
import { PassThroughPlugin } from '../pass-through.ts';
import { everyStep } from '../settle.ts';
import { openLogFile, type RequestLog } from './request-log.ts';

export const logFilter = defineFilter({
  name: 'log',
  usage: '[file=PATH]',
  summary: "write a line of JSON for every request, with its result and time, to the server's log or a file",
  options: { file: path },
  prepare: ({ file }) => ({
    open: async (inner, context) => new LogPlugin(inner, requestLog(file, context)),
  }),
});

function requestLog(file: string | undefined, { log }: FilterContext): RequestLog {
  return file === undefined
    ? { log, close: async () => {} }
    : openLogFile(resolve(file), (error) => {
        log.error({ err: error, file }, 'The log of requests cannot be written');
      });
}

class LogPlugin extends PassThroughPlugin {
  readonly #requestLog: RequestLog;
  /** Counts up, to tell clients apart. */
  #handleNumber = 0;

  constructor(inner: Plugin, requestLog: RequestLog) {
    super(inner);
    this.#requestLog = requestLog;
  }

  override close(): Promise<void> {
    return everyStep(
      () => super.close(),
      () => this.#requestLog.close(),
    );
  }

  override abandon(): Promise<void> {
    return everyStep(
      () => super.abandon(),
      () => this.#requestLog.close(),
    );
  }

  protected override wrap(handle: Handle): Handle {
    this.#handleNumber += 1;
    return new LogHandle(handle, this.#requestLog, this.#handleNumber);
  }
}

class LogHandle extends InterceptedHandle {
  readonly #requestLog: RequestLog;
  readonly #number: number;

  constructor(inner: Handle, requestLog: RequestLog, number: number) {
    super(inner);
    this.#requestLog = requestLog;
    this.#number = number;
  }

  protected override async around<T>(request: InterceptedRequest, work: () => Promise<T>): Promise<T> {
    const begin = performance.now();
    let result = 'ok';
    try {
      return await work();
    } catch (error) {
      result = error instanceof BackendError ? errnoName(error.errno) : String(error);
      throw error;
    } finally {
      const milliseconds = Math.round((performance.now() - begin) * 1000) / 1000;
      this.#requestLog.log.info({ handle: this.#number, ...request, result, milliseconds }, 'Request');
    }
  }
}
