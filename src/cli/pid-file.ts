/**
 * The file that says which process serves, for scripts that wait for it: it appears in one piece, when clients
 * can connect. The text is written beside it first, so that a place where it cannot be is found out at start.
 */
import { lstatSync, renameSync, rmSync, type Stats, writeFileSync } from 'node:fs';
import { CommandError } from './command-error.ts';

export class PidFile {
  readonly #path: string;
  readonly #draft: string;
  #published: Stats | undefined;

  private constructor(path: string) {
    this.#path = path;
    this.#draft = `${path}.${process.pid}`;
  }

  /** Throws a CommandError where the file could not be written. */
  static prepare(path: string): PidFile {
    const file = new PidFile(path);
    const existing = lstatSync(path, { throwIfNoEntry: false });
    if (existing !== undefined && !existing.isFile()) {
      throw new CommandError(
        `Cannot write the pid file "${path}": there is something that is no regular file`,
      );
    }
    try {
      writeFileSync(file.#draft, `${process.pid}\n`);
      return file;
    } catch (error) {
      throw new CommandError(
        `Cannot write the pid file "${path}": ${(error as NodeJS.ErrnoException).code ?? String(error)}`,
      );
    }
  }

  /** Takes the place of whatever an earlier server has left there. */
  publish(): void {
    renameSync(this.#draft, this.#path);
    this.#published = lstatSync(this.#path);
  }

  /** Removes it, unless another server has put its own there. */
  remove(): void {
    rmSync(this.#draft, { force: true });
    const now = lstatSync(this.#path, { throwIfNoEntry: false });
    if (this.#published !== undefined && now?.ino === this.#published.ino) {
      rmSync(this.#path);
    }
  }
}
