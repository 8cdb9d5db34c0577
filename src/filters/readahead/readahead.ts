/** `readahead`: reads ahead of clients that read in sequence, for plugins that take long to answer. */
import { FILTER_READAHEAD_BYTES_MAX, PAYLOAD_BYTES_MAX } from '../../limits.ts';
import type { Handle, Plugin } from '../../plugins/plugin.ts';
import { formatSize } from '../../units/size.ts';
import { defineFilter } from '../filter.ts';
import { FilterError } from '../filter-error.ts';
import { size } from '../options.ts';
import { PassThroughPlugin } from '../pass-through.ts';
import { Prefetched } from './prefetched.ts';
import { ReadAheadHandle } from './readahead-handle.ts';

const KIB = 1024;
const MIB = 1024 * KIB;

const WINDOW_BYTES_DEFAULT = MIB;
const MEMORY_BYTES_DEFAULT = 64 * MIB;

export const readaheadFilter = defineFilter({
  name: 'readahead',
  usage: '[window=SIZE][,memory=SIZE]',
  summary: `read two windows (${formatSize(WINDOW_BYTES_DEFAULT)}) ahead of sequential reads, into memory (${formatSize(MEMORY_BYTES_DEFAULT)}) of all clients`,
  options: {
    window: size(4 * KIB, PAYLOAD_BYTES_MAX),
    memory: size(4 * KIB, FILTER_READAHEAD_BYTES_MAX),
  },
  prepare({ window = WINDOW_BYTES_DEFAULT, memory = MEMORY_BYTES_DEFAULT }) {
    if (memory < window) {
      throw new FilterError(
        `Filter "readahead": memory=${formatSize(memory)} does not hold a window of ${formatSize(window)}`,
      );
    }
    return {
      open: async (inner) => {
        // Whole blocks, where the inner plugin knows no smaller ones.
        const { minimum } = inner.info.blockSize;
        const bytes = Math.max(window - (window % minimum), minimum);
        return new ReadAheadPlugin(
          inner,
          new Prefetched(bytes, Math.max(1, Math.floor(memory / bytes)), inner.info.size),
        );
      },
    };
  },
});

class ReadAheadPlugin extends PassThroughPlugin {
  readonly #prefetched: Prefetched;

  constructor(inner: Plugin, prefetched: Prefetched) {
    super(inner);
    this.#prefetched = prefetched;
  }

  protected override wrap(handle: Handle): Handle {
    return new ReadAheadHandle(handle, this.#prefetched);
  }
}
