/** A server of a comparison while it runs. */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, open, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { childEnvironment } from '../support/command.ts';
import { eventually } from '../support/polling.ts';
import { CLIENT_FLAGS, encodeOption, OPTION, RawClient } from '../support/raw-client.ts';
import type { Peer, Setup } from './peers.ts';

/** The two magic numbers and the flags that a server begins with. */
const HELLO_BYTES = 18;

/** To start, and to end. */
const DEADLINE_MS = 10_000;

/** In milliseconds. */
export interface LoopDelay {
  /** Samples behind the percentiles. */
  readonly count: number;
  readonly p99: number;
  readonly p999: number;
  readonly max: number;
}

/** Disposing of it ends it by its process id and waits for its end. */
export class RunningPeer implements AsyncDisposable {
  readonly uri: string;
  readonly pid: number;
  readonly #child: ChildProcess;
  readonly #canTellLoopDelay: boolean;

  private constructor(uri: string, pid: number, child: ChildProcess, canTellLoopDelay: boolean) {
    this.uri = uri;
    this.pid = pid;
    this.#child = child;
    this.#canTellLoopDelay = canTellLoopDelay;
  }

  /** Resolves once clients can connect; with undefined when it has nothing of the kind, or is not installed. */
  static async start(peer: Peer, setup: Setup, parentFolder: string): Promise<RunningPeer | undefined> {
    // A new one each time, as not every server removes its socket; a short name, as the path of a socket has at
    // most 107 bytes (unix(7)).
    const folder = await mkdtemp(join(parentFolder, 's-'));
    const launch = await peer.launch(setup, folder);
    if (launch === undefined) {
      return undefined;
    }
    const [program, ...words] = launch.command;
    const isTold = launch.canTellLoopDelay === true;
    // To a file: they complain about every client that leaves without a word, as fio does under TLS.
    const complaints = join(folder, 'stderr');
    const stderr = await open(complaints, 'w');
    const child = spawn(program, words, {
      env: childEnvironment(),
      stdio: ['ignore', 'ignore', stderr.fd, ...(isTold ? ['ipc' as const] : [])],
    });
    // Before the next wait: a program that is not installed is told on the next tick.
    let failure: NodeJS.ErrnoException | undefined;
    child.once('error', (error) => {
      failure = error;
    });
    await stderr.close();
    let pid = child.pid ?? 0;
    try {
      await eventually(
        `${peer.name} listens`,
        async () => {
          if (failure !== undefined) {
            throw failure;
          }
          if (launch.pidFile === undefined ? hasEnded(child) : (child.exitCode ?? 0) !== 0) {
            const text = await readFile(complaints, 'utf8');
            throw new Error(`${peer.name} ended with ${child.exitCode ?? child.signalCode}: ${text.trim()}`);
          }
          if (launch.pidFile !== undefined) {
            pid = Number(await readFile(launch.pidFile, 'utf8').catch(() => 0));
          }
          return pid > 0 && (await canConnect(launch.uri)) ? true : undefined;
        },
        DEADLINE_MS,
      );
    } catch (error) {
      child.kill('SIGKILL');
      if (failure?.code === 'ENOENT') {
        return undefined;
      }
      throw error;
    }
    return new RunningPeer(launch.uri, pid, child, isTold);
  }

  /** Begins to measure the delay of the event loop, with a sample every `resolution` milliseconds. */
  startLoopDelay(resolution: number): void {
    if (this.#canTellLoopDelay) {
      this.#child.send({ command: 'start', resolution });
    }
  }

  /** Undefined for a server without an event loop that we could look at. */
  async stopLoopDelay(): Promise<LoopDelay | undefined> {
    if (!this.#canTellLoopDelay) {
      return undefined;
    }
    const settled = new AbortController();
    const told = once(this.#child, 'message', { signal: settled.signal });
    const ended = once(this.#child, 'exit', { signal: settled.signal });
    // The one that did not come is let go of at the end: one more listener for each run, else.
    told.catch(() => {});
    ended.catch(() => {});
    this.#child.send({ command: 'stop' });
    const [answer] = await Promise.race([told, ended]);
    settled.abort();
    if (hasEnded(this.#child)) {
      throw new Error('The server has ended');
    }
    return answer as LoopDelay;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.pid !== this.#child.pid) {
      await endStranger(this.pid);
    } else if (!hasEnded(this.#child)) {
      const exited = once(this.#child, 'exit');
      this.#child.kill('SIGTERM');
      const late = setTimeout(() => this.#child.kill('SIGKILL'), DEADLINE_MS);
      await exited;
      clearTimeout(late);
    }
  }
}

function hasEnded(child: ChildProcess): boolean {
  return child.exitCode !== null || child.signalCode !== null;
}

/** Ends a process that is no child of ours. */
async function endStranger(pid: number): Promise<void> {
  const isGone = async (): Promise<true | undefined> => {
    const stat = await readFile(`/proc/${pid}/stat`, 'utf8').catch(() => '');
    // An orphan whose new parent does not look after it stays behind as a zombie.
    return stat === '' || /\) [ZX] /.test(stat) ? true : undefined;
  };
  if ((await isGone()) === undefined) {
    process.kill(pid, 'SIGTERM');
    await eventually(`process ${pid} ends`, isGone, DEADLINE_MS);
  }
}

/** Leaves as the protocol wants it, so that no server has to complain. */
async function canConnect(uri: string): Promise<boolean> {
  try {
    await using client = await RawClient.connect({ uri });
    await client.receive(HELLO_BYTES);
    await client.send(Buffer.concat([CLIENT_FLAGS, encodeOption(OPTION.abort)]));
    return true;
  } catch {
    return false;
  }
}
