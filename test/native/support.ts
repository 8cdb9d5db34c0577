/**
 * What the addon's tests share: temporary files on a real disk, promises for its callbacks, and child
 * processes for whatever ends a process. No test here asserts on time.
 */
import { type ExecFileException, execFile, execFileSync } from 'node:child_process';
import { closeSync, mkdtempSync, openSync, rmSync, statfsSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterEach } from 'vitest';
import { type Done, native, type RangeDone, type WriteWindows } from '../../src/native/binding.ts';

export const KiB = 1024;
export const MiB = 1024 * KiB;
export const GiB = 1024 * MiB;

export const EIO = 5;
export const EBADF = 9;
export const EAGAIN = 11;
export const EBUSY = 16;
export const EINVAL = 22;
export const EMFILE = 24;
export const ENOTTY = 25;
export const ENOSPC = 28;
export const ESPIPE = 29;
export const ENAMETOOLONG = 36;
export const EADDRINUSE = 98;

const CHILD_TIMEOUT_MS = 25_000;

export const RWF_DSYNC = 2;
export const RWF_NOWAIT = 8;
export const POSIX_FADV_DONTNEED = 4;

export const isRoot = process.getuid?.() === 0;

const cleanups: (() => void)[] = [];

/** Runs `cleanup` after the test, last registered first, whatever becomes of the test. */
export function defer(cleanup: () => void): void {
  cleanups.push(cleanup);
}

afterEach(() => {
  const errors: unknown[] = [];
  for (let cleanup = cleanups.pop(); cleanup !== undefined; cleanup = cleanups.pop()) {
    try {
      cleanup();
    } catch (error) {
      errors.push(error);
    }
  }
  if (errors.length > 0) throw new AggregateError(errors, 'Cleanup failed');
});

const TMPFS_MAGIC = 0x01021994;

function diskRoot(): string {
  const candidates = [process.env['TMPDIR'] ?? '/tmp', '/var/tmp', process.cwd()];
  const found = candidates.find((folder) => statfsSync(folder).type !== TMPFS_MAGIC);
  if (found === undefined) throw new Error('No folder on a disk file system for the test');
  return found;
}

/** A folder on a file system whose pages can be evicted, removed after the test. */
export function temporaryFolder(): string {
  const folder = mkdtempSync(join(diskRoot(), 'nbd-serve-native-'));
  defer(() => rmSync(folder, { recursive: true, force: true }));
  return folder;
}

export function openForTest(path: string, flags: string | number): number {
  const fd = openSync(path, flags);
  defer(() => closeSync(fd));
  return fd;
}

/** A new, empty file, open for reading and writing. */
export function temporaryFile(): { path: string; fd: number } {
  const path = join(temporaryFolder(), 'image');
  return { path, fd: openForTest(path, 'w+') };
}

export function result(start: (done: Done) => void): Promise<number> {
  return new Promise((resolve) => start(resolve));
}

export interface RangeResult {
  result: number;
  offset: number;
  length: number;
}

export function rangeResult(start: (done: RangeDone) => void): Promise<RangeResult> {
  return new Promise((resolve) => start((result, offset, length) => resolve({ result, offset, length })));
}

export const SUCCESS: RangeResult = { result: 0, offset: 0, length: 0 };

export function advance(windows: WriteWindows): Promise<RangeResult> {
  return rangeResult((done) => windows.advance(done));
}

export function drain(windows: WriteWindows): Promise<RangeResult> {
  return rangeResult((done) => windows.drain(done));
}

export interface Counts {
  cached: number;
  dirty: number;
  writeBack: number;
}

/** In pages. */
export async function cachestat(fd: number, offset = 0, length = 0): Promise<Counts> {
  const counts = new Float64Array(5);
  const status = await result((done) => native.cachestat(fd, offset, length, counts, done));
  if (status !== 0) throw new Error(`cachestat failed: ${status}`);
  const [cached = Number.NaN, dirty = Number.NaN, writeBack = Number.NaN] = counts;
  return { cached, dirty, writeBack };
}

/** Bytes that tell their place: no two pages of a file are alike. */
export function pattern(length: number, seed: number): Buffer {
  const buffer = Buffer.alloc(length);
  let state = seed + 1;
  for (let position = 0; position + 4 <= length; position += 4) {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    buffer.writeUInt32LE(state, position);
  }
  return buffer;
}

export interface ChildResult {
  code: number | null;
  signal: string | null;
  stdout: string;
  stderr: string;
}

export function childPath(name: string): string {
  return fileURLToPath(new URL(`./${name}`, import.meta.url));
}

/** Runs `node [nodeOptions] test/native/<script> ...values` to its end. */
export function runChild(script: string, values: string[], nodeOptions: string[] = []): Promise<ChildResult> {
  return new Promise((resolve) => {
    const child = execFile(
      process.execPath,
      [...nodeOptions, childPath(script), ...values],
      // A child that hangs fails its test by its signal and does not outlive it.
      { timeout: CHILD_TIMEOUT_MS, killSignal: 'SIGKILL' },
      (error: ExecFileException | null, stdout, stderr) => {
        resolve({ code: error === null ? 0 : child.exitCode, signal: child.signalCode, stdout, stderr });
      },
    );
  });
}

/** What a child prints when it ended as it should. */
export function cleanExit(stdout: string): Partial<ChildResult> {
  return { code: 0, signal: null, stdout };
}

export function run(command: string, ...values: string[]): string {
  return execFileSync(command, values, { encoding: 'utf8', stdio: ['ignore', 'pipe', 'pipe'] });
}
