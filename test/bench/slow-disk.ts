/** A disk that takes its time: a loop device on a FUSE file of nbdfuse, behind it nbdkit's delay filter. */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdir, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { Cleanup } from '../support/cleanup.ts';
import { childEnvironment, run } from '../support/command.ts';
import { eventually } from '../support/polling.ts';
import { attachLoop } from '../support/storage.ts';

export interface SlowDisk extends AsyncDisposable {
  /** Of the block device. Its page cache is as quick as any. */
  readonly path: string;
}

/** Needs root. Every request takes `delayMs`. */
export async function makeSlowDisk(folder: string, size: number, delayMs: number): Promise<SlowDisk> {
  const mountPoint = join(folder, 'slow');
  await mkdir(mountPoint);
  const cleanup = new Cleanup();
  const server = ['nbdkit', '--exit-with-parent', '--filter=delay', 'memory', `${size}`];
  const delays = [`rdelay=${delayMs}ms`, `wdelay=${delayMs}ms`];
  // A process group of its own: Ctrl-C must not take the disk from under the servers that still use it.
  const child = spawn('nbdfuse', [mountPoint, '[', ...server, ...delays, ']'], {
    env: childEnvironment(),
    stdio: 'ignore',
    detached: true,
  });
  cleanup.defer(() => unmount(child, mountPoint));
  try {
    const file = join(mountPoint, 'nbd');
    await eventually(
      'nbdfuse shows the slow disk',
      () => {
        if (child.exitCode !== null) {
          throw new Error(`nbdfuse ended with ${child.exitCode}`);
        }
        return stat(file).then(
          () => true,
          () => undefined,
        );
      },
      10_000,
    );
    // Past the page cache of the file below, which would make the disk quicker with each server.
    const { path } = cleanup.use(await attachLoop(file, '--direct-io=on'));
    return { path, [Symbol.asyncDispose]: () => cleanup[Symbol.asyncDispose]() };
  } catch (error) {
    await cleanup[Symbol.asyncDispose]();
    throw error;
  }
}

async function unmount(child: ChildProcess, mountPoint: string): Promise<void> {
  if (child.exitCode === null && child.signalCode === null) {
    const ended = once(child, 'exit');
    await run(['fusermount3', '-u', mountPoint]);
    await ended;
  }
}
