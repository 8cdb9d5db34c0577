import { chmod, mkdtemp, readdir, rm, statfs } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { testId } from './test-id.ts';

/** File systems in memory: nothing in them can be evicted from the page cache, so nothing there can be proved. */
const IN_MEMORY: ReadonlySet<number> = new Set([0x01021994 /* tmpfs */, 0x858458f6 /* ramfs */]);

const CANDIDATES = ['/var/tmp', tmpdir(), process.cwd()];

/** The first place for temporary files that lies on a disk. */
async function diskDirectory(): Promise<string> {
  for (const candidate of CANDIDATES) {
    try {
      const { type } = await statfs(candidate);
      if (!IN_MEMORY.has(type)) return candidate;
    } catch {
      // Not there: try the next one.
    }
  }
  throw new Error(`no directory on a disk among ${CANDIDATES.join(', ')}`);
}

function prefix(): string {
  return `nbd-serve-test-${testId()}-`;
}

export class TemporaryDirectory implements AsyncDisposable {
  readonly path: string;

  constructor(path: string) {
    this.path = path;
  }

  file(name: string): string {
    return join(this.path, name);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await rm(this.path, { recursive: true, force: true });
  }
}

/** A new directory on a disk file system, removed with everything in it when it goes out of scope. */
export async function temporaryDirectory(): Promise<TemporaryDirectory> {
  const path = await mkdtemp(join(await diskDirectory(), prefix()));
  // Some tests serve from here as another user.
  await chmod(path, 0o755);
  return new TemporaryDirectory(path);
}

/** Directories of this test file that still exist. */
export async function remainingDirectories(): Promise<string[]> {
  const parent = await diskDirectory();
  const names = await readdir(parent);
  return names.filter((name) => name.startsWith(prefix())).map((name) => join(parent, name));
}
