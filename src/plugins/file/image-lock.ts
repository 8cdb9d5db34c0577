/**
 * One writer at a time, or many readers: flock(2) against other nbd-serve processes, and the byte-range locks
 * that QEMU takes on an image, so that a running virtual machine and this server refuse each other.
 *
 * QEMU's scheme (its docs/system/qemu-block-drivers, "Disk image file locking"; block/file-posix.c): for each
 * permission bit that a user of the image holds, a shared open-file-description lock on byte 100 + bit; for
 * each bit that it does not grant to others, one on byte 200 + bit. It takes all of its locks first and then
 * looks for foreign ones on the opposite bytes, so that of two racing users at least one sees the other.
 */
import { flock } from 'fs-ext';
import { native } from '../../native/binding.ts';
import { F_RDLCK, F_UNLCK, F_WRLCK } from '../../native/constants.ts';
import { errnoName, errnoOf } from '../../native/errno.ts';

const HELD_BASE = 100;
const DENIED_BASE = 200;

// QEMU's permission bits (its include/block/block-common.h).
const CONSISTENT_READ = 0;
const WRITE = 1;
const WRITE_UNCHANGED = 2;
const RESIZE = 3;
const PERMISSION_NAMES = ['reads it', 'writes to it', 'writes to it', 'resizes it'];

interface Permissions {
  /** Bits that this server uses. */
  readonly held: readonly number[];
  /** Bits that nobody else may use meanwhile. */
  readonly denied: readonly number[];
}

const WRITER: Permissions = {
  held: [CONSISTENT_READ, WRITE],
  // The most telling first: whoever writes reads, too.
  denied: [WRITE, RESIZE, WRITE_UNCHANGED, CONSISTENT_READ],
};
const READER: Permissions = { held: [CONSISTENT_READ], denied: [WRITE, RESIZE] };

/** Another process uses the image. */
export class ImageLockedError extends Error {
  override readonly name = 'ImageLockedError';
}

/**
 * Locks the image behind `fd` until the descriptor is closed; never waits. `fd` is open for reading, and for
 * writing unless `isReadOnly`. Rejects with an ImageLockedError when someone else holds it.
 */
export async function lockImage(fd: number, path: string, isReadOnly: boolean): Promise<void> {
  await lockAgainstServers(fd, path, isReadOnly);
  lockAgainstQemu(fd, path, isReadOnly ? READER : WRITER);
}

function lockAgainstServers(fd: number, path: string, isReadOnly: boolean): Promise<void> {
  return new Promise((resolve, reject) => {
    flock(fd, isReadOnly ? 'shnb' : 'exnb', (error) => {
      if (!error) {
        resolve();
      } else if (error.code === 'EAGAIN') {
        reject(new ImageLockedError(lockedText(path, 'another server holds it', !isReadOnly)));
      } else {
        reject(new Error(`Cannot lock "${path}": ${error.message} (--no-lock serves it without a lock)`));
      }
    });
  });
}

function lockAgainstQemu(fd: number, path: string, permissions: Permissions): void {
  const { held, denied } = permissions;
  for (const byte of [...held.map((bit) => HELD_BASE + bit), ...denied.map((bit) => DENIED_BASE + bit)]) {
    assertLocked(native.ofd_setlk(fd, F_RDLCK, byte, 1), path);
  }
  for (const bit of denied) {
    if (isForeign(fd, path, HELD_BASE + bit)) {
      const why = `a virtual machine or QEMU tool ${PERMISSION_NAMES[bit]}`;
      throw refused(fd, path, why, bit === CONSISTENT_READ);
    }
  }
  for (const bit of held) {
    if (isForeign(fd, path, DENIED_BASE + bit)) {
      throw refused(fd, path, 'a virtual machine or QEMU tool does not share it', false);
    }
  }
}

/** True when another open file description holds a lock on `byte`. Our own locks never count. */
function isForeign(fd: number, path: string, byte: number): boolean {
  const result = native.ofd_getlk(fd, F_WRLCK, byte, 1);
  assertLocked(Math.min(result, 0), path);
  return result === 1;
}

function refused(fd: number, path: string, why: string, isReaderWelcome: boolean): ImageLockedError {
  // Given back at once: the descriptor may live on for a moment, and a VM that starts now must not see it.
  native.ofd_setlk(fd, F_UNLCK, HELD_BASE, DENIED_BASE + RESIZE + 1 - HELD_BASE);
  return new ImageLockedError(lockedText(path, why, isReaderWelcome));
}

function assertLocked(result: number, path: string): void {
  if (result < 0) {
    const reason = errnoName(errnoOf(result));
    throw new ImageLockedError(
      `Cannot take QEMU's locks on "${path}": ${reason} (--no-lock serves it without a lock)`,
    );
  }
}

/** `isReaderWelcome`: a server that only reads would not be refused, or perhaps not. */
function lockedText(path: string, why: string, isReaderWelcome: boolean): string {
  const also = isReaderWelcome ? ', or use --read-only beside other readers' : '';
  return `"${path}" is locked: ${why}. Stop that process first${also}`;
}
