/** `nbd-serve memory <size>`. */
import { Argument, Option } from '@commander-js/extra-typings';
import { MEMORY_LIMIT_BYTES_MAX, MEMORY_LIMIT_BYTES_MIN, MEMORY_LIMIT_FRACTION } from '../limits.ts';
import { availableMemory } from '../plugins/memory/available-memory.ts';
import { MemoryPlugin } from '../plugins/memory/memory-plugin.ts';
import { formatSize } from '../units/size.ts';
import { sizeBetween } from './argument-parsers.ts';
import { CommandError } from './command-error.ts';
import { serve } from './serve.ts';
import { servingCommand } from './serving-options.ts';
import { defaultThreads } from './serving-threads.ts';

/** `finish` gets the exit code. */
export function memoryCommand(finish: (code: number) => void) {
  return servingCommand('memory')
    .description('serve a RAM disk: empty at first, gone when the server ends')
    .addArgument(new Argument('<size>', 'bytes, or a number with K, M, G, T or P').argParser(sizeBetween(0)))
    .addOption(
      new Option(
        '--memory-limit <size>',
        'memory that its contents may take; writes beyond it fail with ENOSPC (default: 80 % of what is available)',
      ).argParser(sizeBetween(MEMORY_LIMIT_BYTES_MIN, MEMORY_LIMIT_BYTES_MAX)),
    )
    .action(async (size, options) => {
      const limit = options.memoryLimit ?? defaultLimit();
      const serving = { ...options, threadsDefault: defaultThreads(options) };
      finish(
        await serve(serving, async ({ isReadOnly }) => create(size, limit, isReadOnly), {
          memoryLimit: limit,
        }),
      );
    });
}

/** As much as this process may take at the start, less what the server itself and others need. */
function defaultLimit(): number {
  const limit = Math.min(availableMemory() * MEMORY_LIMIT_FRACTION, MEMORY_LIMIT_BYTES_MAX);
  return Math.max(Math.floor(limit), MEMORY_LIMIT_BYTES_MIN);
}

function create(size: number, limit: number, isReadOnly: boolean): MemoryPlugin {
  try {
    return MemoryPlugin.create({ size, limit, isReadOnly });
  } catch (error) {
    if (error instanceof RangeError) {
      throw new CommandError(
        `no address space for a memory limit of ${formatSize(limit)}: give a smaller --memory-limit, or raise ulimit -v`,
      );
    }
    throw error;
  }
}
