/** `error`: requests that fail by chance, for tests of clients. Nothing of a failed request reaches the plugin. */

import { randomInt } from 'node:crypto';
import { access } from 'node:fs/promises';
import { resolve } from 'node:path';
import { EIO, ENOMEM, ENOSPC, EPERM, ESHUTDOWN } from '../../native/errno.ts';
import { BackendError } from '../../plugins/backend-error.ts';
import type { Handle, Plugin } from '../../plugins/plugin.ts';
import type { LinuxErrno } from '../../protocol/errno.ts';
import { defineFilter } from '../filter.ts';
import { FilterError } from '../filter-error.ts';
import { COMMANDS, type Command, InterceptedHandle, type InterceptedRequest } from '../intercepted-handle.ts';
import { integer, listOf, oneOf, path, percentage } from '../options.ts';
import { PassThroughPlugin } from '../pass-through.ts';

/** Those that reach a client under their own name (protocol/errno.ts). */
const ERRNOS = { EIO, EPERM, ENOMEM, ENOSPC, ESHUTDOWN } as const;
const ERRNO_NAMES = Object.keys(ERRNOS) as (keyof typeof ERRNOS)[];

const SEED_MAX = 2 ** 32 - 1;

interface Failing {
  /** From 0 to 1. */
  readonly probability: number;
  readonly errno: LinuxErrno;
  readonly commands: readonly Command[];
  /** Requests fail while it exists; undefined: always. */
  readonly switchPath: string | undefined;
  /** The next number from 0 to before 1. */
  readonly random: () => number;
}

export const errorFilter = defineFilter({
  name: 'error',
  usage: 'rate=N%[,errno=NAME][,commands=COMMAND,...][,file=PATH][,seed=NUMBER]',
  summary:
    'let that part of the requests fail: with EIO and of all commands unless told, while the file exists',
  options: {
    rate: percentage,
    errno: oneOf(ERRNO_NAMES),
    commands: listOf(COMMANDS),
    file: path,
    seed: integer(0, SEED_MAX),
  },
  firstOption: 'rate',
  prepare({ rate, errno = 'EIO', commands = COMMANDS, file, seed }) {
    if (rate === undefined) {
      throw new FilterError('Filter "error" needs rate=N%, such as error:rate=10%');
    }
    const failing = {
      probability: rate,
      errno: ERRNOS[errno],
      commands,
      switchPath: file === undefined ? undefined : resolve(file),
    };
    return {
      open: async (inner) =>
        new ErrorPlugin(inner, { ...failing, random: randomNumbers(seed ?? randomInt(SEED_MAX)) }),
    };
  },
});

/** Mulberry32: a seed gives the same numbers everywhere, and a chance needs no better ones. */
export function randomNumbers(seed: number): () => number {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}

class ErrorPlugin extends PassThroughPlugin {
  readonly #failing: Failing;

  constructor(inner: Plugin, failing: Failing) {
    super(inner);
    this.#failing = failing;
  }

  protected override wrap(handle: Handle): Handle {
    return new ErrorHandle(handle, this.#failing);
  }
}

class ErrorHandle extends InterceptedHandle {
  readonly #failing: Failing;

  constructor(inner: Handle, failing: Failing) {
    super(inner);
    this.#failing = failing;
  }

  protected override async around<T>(
    { command, offset, length }: InterceptedRequest,
    work: () => Promise<T>,
  ): Promise<T> {
    const { probability, errno, commands, random } = this.#failing;
    // The number is taken before anything is waited for: the same requests meet the same fate each time.
    if (commands.includes(command) && random() < probability && (await this.#isSwitchedOn())) {
      throw new BackendError(errno, `error filter: ${command}`, offset, length);
    }
    return work();
  }

  async #isSwitchedOn(): Promise<boolean> {
    const { switchPath } = this.#failing;
    return (
      switchPath === undefined ||
      (await access(switchPath).then(
        () => true,
        () => false,
      ))
    );
  }
}
