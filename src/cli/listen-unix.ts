/**
 * A Unix socket at a path. The file of a server that is gone is replaced, that of a live one never: two servers
 * that start at one time, and both find the same stale file, take turns by a lock on the directory. Without it
 * the second could take the first one's new file, bound and not yet listened on, for a stale one.
 */
import {
  closeSync,
  lstatSync,
  mkdtempSync,
  openSync,
  rmSync,
  type Stats,
  statSync,
  unlinkSync,
} from 'node:fs';
import { connect } from 'node:net';
import { tmpdir } from 'node:os';
import { dirname, join, resolve } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { flock } from 'fs-ext';
import { LISTEN_BACKLOG } from '../limits.ts';
import { native } from '../native/binding.ts';
import { EADDRINUSE, errnoName, errnoOf } from '../native/errno.ts';
import { CommandError } from './command-error.ts';

/** The owner only, as design and habit of private sockets ask. */
const UNIX_SOCKET_MODE = 0o600;

/** The lock is held for a connect and a bind; longer means that somebody else uses such a lock. */
const LOCK_TRY_COUNT_MAX = 250;
const LOCK_PAUSE_MS = 20;

export interface UnixSocket {
  readonly fd: number;
  readonly path: string;
  /** Removes the file, unless somebody else's stands there by now. */
  remove(): void;
}

/** `path`: `-` makes a private temporary one. Rejects with a CommandError. */
export function listenUnix(path: string): Promise<UnixSocket> {
  return path === '-' ? listenPrivately() : listenAt(resolve(path));
}

async function listenPrivately(): Promise<UnixSocket> {
  const folder = mkdtempSync(join(tmpdir(), 'nbd-serve-'));
  const removeFolder = (): void => rmSync(folder, { recursive: true, force: true });
  try {
    return { ...bind(join(folder, 'socket')), remove: removeFolder };
  } catch (error) {
    removeFolder();
    throw error;
  }
}

async function listenAt(path: string): Promise<UnixSocket> {
  const lock = await lockDirectory(dirname(path), path);
  try {
    await removeStaleSocket(path, lock !== undefined);
    return bind(path);
  } finally {
    if (lock !== undefined) {
      closeSync(lock);
    }
  }
}

function bind(path: string): UnixSocket {
  const fd = native.listen_unix(path, UNIX_SOCKET_MODE, LISTEN_BACKLOG);
  if (fd < 0) {
    throw new CommandError(`Cannot listen on "${path}": ${reasonOf(fd)}`);
  }
  const made = statSync(path);
  return { fd, path, remove: () => removeOwn(path, made) };
}

function reasonOf(result: number): string {
  const errno = errnoOf(result);
  return errno === EADDRINUSE ? 'something appeared at that path meanwhile' : errnoName(errno);
}

/** The descriptor that holds the lock; undefined where directories cannot be locked (NFS, no permission). */
async function lockDirectory(directory: string, path: string): Promise<number | undefined> {
  let fd: number;
  try {
    fd = openSync(directory, 'r');
  } catch {
    // Whether the socket can be made there is for bind(2) to say.
    return undefined;
  }
  for (let count = 1; count <= LOCK_TRY_COUNT_MAX; count += 1) {
    const error = await tryLock(fd);
    if (error === null) {
      return fd;
    }
    if (error.code !== 'EAGAIN') {
      closeSync(fd);
      return undefined;
    }
    await delay(LOCK_PAUSE_MS);
  }
  closeSync(fd);
  throw new CommandError(`Cannot listen on "${path}": another process keeps "${directory}" locked`);
}

function tryLock(fd: number): Promise<NodeJS.ErrnoException | null> {
  return new Promise((done) => {
    flock(fd, 'exnb', (error) => done(error ?? null));
  });
}

/** Removes the socket of a server that is gone; refuses a live one and anything that is no socket. */
async function removeStaleSocket(path: string, isLocked: boolean): Promise<void> {
  const stats = lstatSync(path, { throwIfNoEntry: false });
  if (stats === undefined) {
    return;
  }
  if (!stats.isSocket()) {
    throw new CommandError(`Cannot listen on "${path}": there is a file that is no socket`);
  }
  if (await isAlive(path)) {
    throw new CommandError(`Cannot listen on "${path}": another server listens there`);
  }
  if (!isLocked) {
    throw new CommandError(
      `Cannot listen on "${path}": its directory cannot be locked; remove the stale socket first`,
    );
  }
  unlinkSync(path);
}

function isAlive(path: string): Promise<boolean> {
  return new Promise((resolveAlive, reject) => {
    const probe = connect({ path });
    probe.once('connect', () => {
      probe.destroy();
      resolveAlive(true);
    });
    probe.once('error', (error: NodeJS.ErrnoException) => {
      if (error.code === 'ECONNREFUSED') {
        resolveAlive(false);
      } else if (error.code === 'EAGAIN') {
        // The backlog is full: somebody listens, if slowly.
        resolveAlive(true);
      } else {
        reject(new CommandError(`Cannot listen on "${path}": a socket is there already (${error.code})`));
      }
    });
  });
}

function removeOwn(path: string, made: Stats): void {
  const now = lstatSync(path, { throwIfNoEntry: false });
  if (now !== undefined && now.ino === made.ino && now.dev === made.dev) {
    unlinkSync(path);
  }
}
