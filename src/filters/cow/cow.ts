/** `cow`: writes go to an overlay, and what is below is only read. */
import { resolve } from 'node:path';
import { ALLOCATION_CONTEXT, type Handle, type Plugin, type PluginInfo } from '../../plugins/plugin.ts';
import { defineFilter, type FilterContext } from '../filter.ts';
import { FilterError } from '../filter-error.ts';
import { oneOf, path } from '../options.ts';
import { abandon, settle } from '../pass-through.ts';
import { everyStep } from '../settle.ts';
import { CowHandle, DEPTH_CONTEXT } from './cow-handle.ts';
import { BLOCK_BYTES } from './layout.ts';
import { Overlay } from './overlay.ts';

export const cowFilter = defineFilter({
  name: 'cow',
  usage: '[overlay=PATH][,cache=none]',
  summary: 'write to an overlay and only read what is below; it is thrown away at the end, or kept at PATH',
  options: { overlay: path, cache: oneOf(['default', 'none']) },
  prepare({ overlay, cache = 'default' }) {
    const options = { path: overlay === undefined ? undefined : resolve(overlay), cache };
    return {
      isInnerReadOnly: true,
      open: async (inner, context) => {
        assertBlockSize(inner);
        return new CowPlugin(inner, await Overlay.open(inner, options, context), context);
      },
    };
  },
});

/** Blocks of the overlay are read from the base. */
function assertBlockSize({ info }: Plugin): void {
  if (BLOCK_BYTES % info.blockSize.minimum !== 0) {
    throw new FilterError(
      `Filter "cow" works with blocks of ${BLOCK_BYTES} bytes, below those of the export`,
    );
  }
}

class CowPlugin implements Plugin {
  readonly info: PluginInfo;
  readonly #base: Plugin;
  readonly #overlay: Overlay;

  constructor(base: Plugin, overlay: Overlay, { isReadOnly }: FilterContext) {
    this.#base = base;
    this.#overlay = overlay;
    const { blockSize } = base.info;
    this.info = {
      ...base.info,
      isReadOnly,
      canFlush: true,
      canFua: true,
      canTrim: true,
      canZero: true,
      canFastZero: true,
      canCache: base.info.canCache && overlay.canCache,
      // The base does not change, and all handles share one overlay.
      canMultiConn: true,
      // Smaller writes cost a copy of a block, once.
      blockSize: { ...blockSize, preferred: Math.max(blockSize.preferred, BLOCK_BYTES) },
      metaContexts: [ALLOCATION_CONTEXT, DEPTH_CONTEXT],
    };
  }

  get lossCount(): number | undefined {
    return this.#base.lossCount;
  }

  async open(): Promise<Handle> {
    const base = await this.#base.open();
    try {
      return new CowHandle(base, await this.#overlay.openHandle(), this.#overlay);
    } catch (error) {
      await base.close();
      throw error;
    }
  }

  close(): Promise<void> {
    return everyStep(
      () => this.#overlay.close(),
      () => this.#base.close(),
    );
  }

  settle(): Promise<void> {
    return everyStep(
      () => this.#overlay.settle(),
      () => settle(this.#base),
    );
  }

  abandon(): Promise<void> {
    return everyStep(
      () => this.#overlay.abandon(),
      () => abandon(this.#base),
    );
  }
}
