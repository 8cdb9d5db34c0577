/**
 * A file as a thread that serves it has it (`sharing` of the plugin): handles, write windows and read chunks of its
 * own, within its share of the bounds; lock, descriptor and durability are the main thread's. It must not import
 * what needs fs-ext, whose calls crash in worker threads.
 */
import type { AttachContext, Handle, Plugin, PluginInfo } from '../plugin.ts';
import type { CacheEviction } from './cache-eviction.ts';
import { HandleSet } from './handle-set.ts';
import { ChunkMarks } from './kept-chunks.ts';
import type { LargeFolios } from './large-folios.ts';
import { RemoteDurability } from './remote-durability.ts';
import { createSharedFile } from './shared-file.ts';
import type { FileShare } from './thread-link.ts';

/** `data` is a FileShare. */
export function attachPlugin(data: unknown, context: AttachContext): Plugin {
  return new AttachedFile(data as FileShare, context);
}

class AttachedFile implements Plugin {
  readonly info: PluginInfo;
  readonly #durability: RemoteDurability;
  readonly #eviction: CacheEviction | undefined;
  readonly #largeFolios: LargeFolios | undefined;
  readonly #handles: HandleSet;

  constructor({ info, facts, chunkWords, words, channels }: FileShare, context: AttachContext) {
    const { thread, threadCount, log, windowCounter } = context;
    this.info = info;
    const sweep = (): void => this.#eviction?.flushed();
    const durability = new RemoteDurability({ words, channels, thread, sweep });
    this.#durability = durability;
    const file = createSharedFile(facts, {
      durability,
      log,
      threadCount,
      windowCounter,
      chunkMarks: chunkWords && new ChunkMarks(chunkWords),
      sweepOthers: () => durability.sweepOthers(),
    });
    this.#eviction = file.eviction;
    this.#largeFolios = file.largeFolios;
    this.#handles = new HandleSet(file);
  }

  open(): Handle {
    return this.#handles.open();
  }

  /** The flush is the main thread's, which asks this one for what it still watches. */
  async settle(): Promise<void> {}

  async close(): Promise<void> {
    await this.#eviction?.drain();
    await this.#largeFolios?.settled();
    await this.#durability.close();
  }
}
