/**
 * Every regular file of a directory as an export under its name. A file is open while somebody uses it, and all
 * its connections share one FilePlugin, by inode: two names of one file are one export in all but name. When the
 * last one leaves, it is flushed, closed and unlocked.
 *
 * A file whose acknowledged data was lost stays open until the end of the server: another descriptor would know
 * nothing of the loss, and its FLUSH would lie (file/durability.ts).
 */
import { close, constants, fstat } from 'node:fs';
import { promisify } from 'node:util';
import { EXPORT_BYTES_MAX, LISTED_EXPORT_COUNT_MAX } from '../../limits.ts';
import type { Logger } from '../../log.ts';
import type { ExportInfo } from '../../protocol/export-info.ts';
import type { ListedExport } from '../../protocol/options/list.ts';
import type { ExportSource, OpenedExport, ServedExport } from '../export-source.ts';
import { assertOnDisk, describeFile, type FileOptions, FilePlugin } from '../file/file-plugin.ts';
import { FileRefusedError, type OpenFile } from '../file/open-file.ts';
import type { PluginInfo } from '../plugin.ts';
import { ConfinedDirectory, isFileName, type PinnedFile, reopen } from './confined-directory.ts';
import { listFiles } from './list-files.ts';

const closeDescriptor = promisify(close);

export interface DirectoryOptions {
  readonly path: string;
  /** What a client that names no export gets; empty: nothing. */
  readonly defaultName: string;
  /** For people, in front of each file's size; may be empty. */
  readonly description: string;
  /** How each file is served. */
  readonly file: Omit<FileOptions, 'path' | 'createSize' | 'onUnused'>;
}

/** A logger that can name the file its lines are about. */
export interface DirectoryLogger extends Logger {
  child(fields: Readonly<Record<string, unknown>>): Logger;
}

interface ServedFile extends ServedExport {
  readonly plugin: FilePlugin;
  /** While it is flushed and closed; never rejects. */
  closing: Promise<void> | undefined;
}

/** An open descriptor that no plugin has yet. */
interface Opened {
  readonly file: OpenFile;
  readonly isReadOnly: boolean;
}

export class DirectoryExports implements ExportSource {
  readonly #directory: ConfinedDirectory;
  readonly #options: DirectoryOptions;
  readonly #log: DirectoryLogger;
  /** By inode. */
  readonly #files = new Map<string, Promise<ServedFile>>();
  /** Those of `#files` that are open by now. */
  readonly #opened = new Set<ServedFile>();
  /** Inodes whose close(2) told of a loss, when their descriptor was gone already. */
  readonly #lost = new Set<string>();

  private constructor(directory: ConfinedDirectory, options: DirectoryOptions, log: DirectoryLogger) {
    this.#directory = directory;
    this.#options = options;
    this.#log = log;
  }

  /** Rejects with a FileRefusedError. */
  static async open(options: DirectoryOptions, log: DirectoryLogger): Promise<DirectoryExports> {
    if (options.defaultName !== '' && !isFileName(options.defaultName)) {
      throw new FileRefusedError(
        `"${options.defaultName}" cannot be the name of a file in "${options.path}"`,
      );
    }
    const directory = await ConfinedDirectory.open(options.path, log);
    try {
      if (options.file.cache === 'none') {
        await assertOnDisk(options.path);
      }
      return new DirectoryExports(directory, options, log);
    } catch (error) {
      await directory.close();
      throw error;
    }
  }

  async list(): Promise<readonly ListedExport[]> {
    const { files, isComplete } = await listFiles(this.#directory);
    if (!isComplete) {
      this.#log.warn({ LISTED_EXPORT_COUNT_MAX }, 'The directory has more files than LIST can show');
    }
    return files.map(({ name, size }) => ({ name, description: this.#describeSize(size) }));
  }

  /** Takes no lock: to look at a file must not keep a virtual machine from starting on it. */
  async describe(exportName: string): Promise<ExportInfo | undefined> {
    const name = this.#nameOf(exportName);
    return this.#directory.pin(name, async (pinned) => {
      const served = await this.#files.get(keyOf(pinned))?.catch(() => undefined);
      if (served !== undefined) {
        return this.#info(name, served.plugin.info);
      }
      const { file, isReadOnly } = await this.#openPinned(name, pinned);
      await closeDescriptor(file.fd);
      return this.#info(name, describeFile(file.size, { ...this.#options.file, isReadOnly }));
    });
  }

  opened(): readonly ServedExport[] {
    return [...this.#opened];
  }

  async open(exportName: string): Promise<OpenedExport | undefined> {
    const name = this.#nameOf(exportName);
    return this.#directory.pin(name, async (pinned) => {
      for (;;) {
        const { plugin, closing } = await this.#serve(name, pinned);
        if (closing === undefined) {
          // Nothing may be awaited from the look at `closing` on: until the handle is there, it could begin.
          return { handle: plugin.open(), info: this.#info(name, plugin.info) };
        }
        await closing;
      }
    });
  }

  async close(): Promise<void> {
    const results = await this.#endFiles((plugin) => plugin.close());
    await this.#directory.close();
    this.#assertEnded(results);
  }

  async settle(): Promise<void> {
    this.#assertEnded(await this.#endFiles((plugin) => plugin.settle()));
  }

  #endFiles(end: (plugin: FilePlugin) => Promise<void>): Promise<PromiseSettledResult<void>[]> {
    return Promise.allSettled(
      [...this.#files].map(async ([key, opening]) => {
        const served = await opening.catch(() => undefined);
        await served?.closing;
        // What is left was still in use, or has a loss to tell.
        if (served !== undefined && this.#files.has(key)) {
          await end(served.plugin);
        }
      }),
    );
  }

  #assertEnded(results: readonly PromiseSettledResult<void>[]): void {
    const failed = results.find((result) => result.status === 'rejected');
    if (failed !== undefined) {
      throw failed.reason;
    }
    if (this.#lost.size > 0) {
      throw new Error('Acknowledged data was lost when a file was closed');
    }
  }

  /** Nothing is made at start. */
  abandon(): Promise<void> {
    return this.close();
  }

  #nameOf(exportName: string): string {
    return exportName === '' ? this.#options.defaultName : exportName;
  }

  #info(name: string, info: PluginInfo): ExportInfo {
    return { ...info, name, description: this.#describeSize(info.size) };
  }

  #describeSize(size: number | bigint): string {
    const { description } = this.#options;
    return `${description}${description === '' ? '' : ', '}${size} bytes`;
  }

  /** The one plugin of a file, which is opened now unless somebody has it open. */
  #serve(name: string, pinned: PinnedFile): Promise<ServedFile> {
    const key = keyOf(pinned);
    const existing = this.#files.get(key);
    if (existing !== undefined) {
      return existing;
    }
    const opening = this.#openFile(key, name, pinned);
    this.#files.set(key, opening);
    opening.catch(() => this.#files.delete(key));
    return opening;
  }

  async #openFile(key: string, name: string, pinned: PinnedFile): Promise<ServedFile> {
    const { file, isReadOnly } = await this.#openPinned(name, pinned);
    const options: FileOptions = {
      ...this.#options.file,
      isReadOnly,
      path: `${this.#directory.path}/${name}`,
      createSize: undefined,
      onUnused: () => {
        // Nobody waits for it but the server's end and the next to open it: a flush may outlast every deadline.
        served.closing = this.#closeFile(key, served);
      },
    };
    const plugin = await FilePlugin.adopt(file, options, this.#log.child({ file: name }));
    const served: ServedFile = {
      name,
      description: this.#describeSize(file.size),
      plugin,
      closing: undefined,
    };
    this.#opened.add(served);
    return served;
  }

  async #closeFile(key: string, served: ServedFile): Promise<void> {
    try {
      await served.plugin.settle();
    } catch {
      // The loss is in the log already, and the next to open this file shares the descriptor that knows of it.
      served.closing = undefined;
      return;
    }
    try {
      await served.plugin.close();
    } catch {
      this.#lost.add(key);
    }
    this.#files.delete(key);
    this.#opened.delete(served);
  }

  /** For reading and writing, or for reading where that is all we may do. */
  async #openPinned(name: string, pinned: PinnedFile): Promise<Opened> {
    const { fd } = pinned;
    if (this.#lost.has(keyOf(pinned))) {
      throw new FileRefusedError(`Acknowledged data of "${name}" was lost; it is not served until restart`);
    }
    if (!this.#options.file.isReadOnly) {
      try {
        return { file: await measured(await reopen(fd, constants.O_RDWR), name), isReadOnly: false };
      } catch (error) {
        const { code } = error as NodeJS.ErrnoException;
        if (code !== 'EACCES' && code !== 'EROFS' && code !== 'EPERM') {
          throw error;
        }
      }
    }
    return { file: await measured(await reopen(fd, constants.O_RDONLY), name), isReadOnly: true };
  }
}

async function measured(fd: number, name: string): Promise<OpenFile> {
  const stats = await promisify(fstat)(fd, { bigint: true });
  if (stats.size > BigInt(EXPORT_BYTES_MAX)) {
    await closeDescriptor(fd);
    throw new FileRefusedError(`"${name}" has more than ${EXPORT_BYTES_MAX} bytes, the most that is served`);
  }
  return { fd, size: Number(stats.size), isBlockDevice: false, isNew: false };
}

function keyOf({ stats }: PinnedFile): string {
  return `${stats.dev}:${stats.ino}`;
}
