/** How an overlay comes to be a file: a private one without a name, or one under its path, whole from the start. */
import { randomUUID } from 'node:crypto';
import { type FileHandle, link, mkdtemp, open, rm, stat, statfs, unlink } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { native } from '../../native/binding.ts';
import { call } from '../../native/call.ts';
import { FALLOC_FL_KEEP_SIZE } from '../../native/constants.ts';
import { ENOSYS, EOPNOTSUPP, errnoName, errnoOf } from '../../native/errno.ts';
import { FilterError } from '../filter-error.ts';
import { assertHeader, BITMAP_OFFSET, encodeHeader, type Geometry, HEADER_BYTES } from './layout.ts';

/** statfs(2) magic numbers of file systems in memory: an overlay of an image may outgrow that. */
const MEMORY_FILE_SYSTEMS: readonly number[] = [0x0102_1994, 0x8584_58f6];

/** A new folder for a private overlay: in $TMPDIR, or else on a disk if there is one. */
export async function temporaryFolder(): Promise<string> {
  const candidates = process.env['TMPDIR'] === undefined ? ['/var/tmp', tmpdir()] : [tmpdir()];
  const types = await Promise.all(
    candidates.map((path) =>
      statfs(path).then(
        ({ type }) => type,
        () => undefined,
      ),
    ),
  );
  const onDisk = candidates.find((_, index) => {
    const type = types[index];
    return type !== undefined && !MEMORY_FILE_SYSTEMS.includes(type);
  });
  const parent = onDisk ?? tmpdir();
  try {
    return await mkdtemp(join(parent, 'nbd-serve-cow-'));
  } catch (error) {
    throw refusal('cannot make a temporary overlay in', parent, error);
  }
}

/**
 * Whether `path` is an overlay of this base: true, or false when nothing is there. Throws a FilterError for anything
 * else.
 */
export async function isOverlay(path: string, geometry: Geometry, fingerprint: Uint8Array): Promise<boolean> {
  let file: FileHandle | undefined;
  try {
    // Before open(2), which would wait for the other end of a FIFO.
    if (!(await stat(path)).isFile()) {
      throw new FilterError(`Filter "cow": "${path}" is no regular file`);
    }
    file = await open(path, 'r');
    const { buffer, bytesRead } = await file.read(Buffer.alloc(HEADER_BYTES), 0, HEADER_BYTES, 0);
    const { size } = await file.stat();
    assertHeader(buffer.subarray(0, bytesRead), size, geometry, fingerprint, path);
    return true;
  } catch (error) {
    if (isCode(error, 'ENOENT')) {
      return false;
    }
    throw error instanceof FilterError ? error : refusal('cannot read', path, error);
  } finally {
    await file?.close();
  }
}

/** Makes an empty overlay. It gets its name when it is whole, so that a crash leaves no half of one. */
export async function createOverlay(
  path: string,
  geometry: Geometry,
  fingerprint: Uint8Array,
): Promise<void> {
  const unfinished = `${path}.${randomUUID()}`;
  try {
    const file = await open(unfinished, 'wx');
    try {
      await file.truncate(geometry.fileBytes);
      await reserveBitmap(file.fd, geometry);
      await file.write(encodeHeader(geometry, fingerprint), 0, HEADER_BYTES, 0);
      await file.sync();
    } finally {
      await file.close();
    }
    // Not rename: whoever was faster keeps the name.
    await link(unfinished, path);
  } catch (error) {
    throw refusal('cannot create', path, error);
  } finally {
    await rm(unfinished, { force: true });
  }
  try {
    await syncFolder(dirname(path));
  } catch (error) {
    await unlink(path);
    throw refusal('cannot create', path, error);
  }
}

/** A full disk must be told to the write that does not fit any more, not to a FLUSH of what did. */
async function reserveBitmap(fd: number, { bitmapBytes }: Geometry): Promise<void> {
  const result =
    bitmapBytes === 0
      ? 0
      : await call((done) => {
          native.fallocate(fd, FALLOC_FL_KEEP_SIZE, BITMAP_OFFSET, bitmapBytes, done);
        });
  if (result < 0 && result !== -EOPNOTSUPP && result !== -ENOSYS) {
    throw Object.assign(new Error('fallocate failed'), { code: errnoName(errnoOf(result)) });
  }
}

async function syncFolder(folder: string): Promise<void> {
  const file = await open(folder, 'r');
  try {
    await file.sync();
  } catch (error) {
    // Some network and FUSE file systems know no fsync of a directory: then there is nothing better to do.
    if (!isCode(error, 'EINVAL')) {
      throw error;
    }
  } finally {
    await file.close();
  }
}

function refusal(what: string, path: string, error: unknown): FilterError {
  const { code, message } = error as NodeJS.ErrnoException;
  return new FilterError(`Filter "cow" ${what} "${path}": ${code ?? message}`);
}

function isCode(error: unknown, code: string): boolean {
  return (error as NodeJS.ErrnoException).code === code;
}
