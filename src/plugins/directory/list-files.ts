/** The regular files of a directory with their sizes, as LIST shows them. */
import { isUtf8 } from 'node:buffer';
import type { Dirent } from 'node:fs';
import { opendir } from 'node:fs/promises';
import { LISTED_EXPORT_COUNT_MAX } from '../../limits.ts';
import type { ConfinedDirectory } from './confined-directory.ts';

/** Files that are looked at together: enough to keep the thread pool busy beside what clients ask for. */
const LOOK_COUNT_MAX = 16;

export interface FoundFile {
  readonly name: string;
  /** Bytes. */
  readonly size: bigint;
}

export interface FoundFiles {
  /** By name, in the order of code units. */
  readonly files: readonly FoundFile[];
  /** False: there are more. */
  readonly isComplete: boolean;
}

/** Names that are no UTF-8 are left out, since the protocol has no way to write them. */
export async function listFiles(directory: ConfinedDirectory): Promise<FoundFiles> {
  const files: FoundFile[] = [];
  let names: string[] = [];
  const look = async (): Promise<void> => {
    const found = await Promise.all(names.map((name) => sizeOf(directory, name)));
    files.push(...found.filter((file) => file !== undefined));
    names = [];
  };
  // Names as bytes, one character each: in UTF-8 two different ones could look the same.
  for await (const entry of await opendir(directory.descriptorPath, {
    encoding: 'latin1',
    bufferSize: 256,
  })) {
    const name = candidate(entry);
    if (name !== undefined) {
      names.push(name);
    }
    if (names.length === LOOK_COUNT_MAX) {
      await look();
      if (files.length > LISTED_EXPORT_COUNT_MAX) {
        break;
      }
    }
  }
  await look();
  const isComplete = files.length <= LISTED_EXPORT_COUNT_MAX;
  return { files: sorted(files.slice(0, LISTED_EXPORT_COUNT_MAX)), isComplete };
}

function candidate(entry: Dirent): string | undefined {
  if (entry.isDirectory() || entry.isFIFO() || entry.isSocket() || entry.isCharacterDevice()) {
    return undefined;
  }
  const bytes = Buffer.from(entry.name, 'latin1');
  return isUtf8(bytes) ? bytes.toString() : undefined;
}

/** Undefined for what is gone by now, no regular file, or behind a link that leads outside. */
async function sizeOf(directory: ConfinedDirectory, name: string): Promise<FoundFile | undefined> {
  try {
    return await directory.pin(name, async ({ stats }) => ({ name, size: stats.size }));
  } catch {
    // It cannot be looked at; whoever opens it is told why in the log.
    return undefined;
  }
}

function sorted(files: readonly FoundFile[]): readonly FoundFile[] {
  return files.toSorted((one, other) => (one.name < other.name ? -1 : 1));
}
