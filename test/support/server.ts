import { type ChildProcess, spawn } from 'node:child_process';
import { readdir } from 'node:fs/promises';
import { resolve } from 'node:path';
import { expect } from 'vitest';
import { Cleanup } from './cleanup.ts';
import { attempt, childEnvironment } from './command.ts';
import { eventually } from './polling.ts';
import { type TemporaryDirectory, temporaryDirectory } from './temporary-directory.ts';

/** The built program, as its users run it. */
export const PROGRAM: readonly [string, ...string[]] = [process.execPath, resolve('dist/main.js')];

export const CACHE_MODES = ['default', 'none'] as const;

const START_DEADLINE = 30_000;
const STOP_DEADLINE = 30_000;

const FATAL = 60;

/** For `expect.poll`: the log comes through a pipe, at any time after what it tells of. */
export const LOGGED = { timeout: 30_000, interval: 10 } as const;

export interface LogLine {
  readonly level: number;
  readonly msg?: string;
  readonly [field: string]: unknown;
}

export interface ServerExit {
  readonly code: number | null;
  readonly signal: NodeJS.Signals | null;
}

export class NbdServer implements AsyncDisposable {
  /** The one line on standard output. */
  readonly uri: string;
  readonly exit: Promise<ServerExit>;
  readonly #child: ChildProcess;
  readonly #output: ServerOutput;
  readonly #cleanup: Cleanup;
  #stopped = false;

  constructor(
    child: ChildProcess,
    uri: string,
    output: ServerOutput,
    exit: Promise<ServerExit>,
    cleanup: Cleanup,
  ) {
    this.#child = child;
    this.uri = uri;
    this.#output = output;
    this.exit = exit;
    this.#cleanup = cleanup;
  }

  get pid(): number {
    const { pid } = this.#child;
    if (pid === undefined) throw new Error('the server has no process');
    return pid;
  }

  /** The Unix socket, for servers that listen on one. */
  get socketPath(): string {
    const path = new URL(this.uri).searchParams.get('socket');
    if (path === null) throw new Error(`${this.uri} has no Unix socket`);
    return path;
  }

  get stderr(): string {
    return this.#output.stderr;
  }

  /** The complete lines of the log that have come so far; all of them when the server has ended. */
  get log(): LogLine[] {
    return this.stderr
      .slice(0, this.stderr.lastIndexOf('\n') + 1)
      .split('\n')
      .filter((line) => line !== '')
      .map((line) => JSON.parse(line) as LogLine);
  }

  /** How many descriptors the process has open. */
  async descriptorCount(): Promise<number> {
    return (await readdir(`/proc/${this.pid}/fd`)).length;
  }

  signal(signal: NodeJS.Signals): void {
    this.#child.kill(signal);
  }

  /** Waits for the end of a server that was told to end; kills it if it does not come. */
  async ended(): Promise<ServerExit> {
    let timer: NodeJS.Timeout | undefined;
    const late = new Promise<never>((_resolve, reject) => {
      timer = setTimeout(() => {
        this.signal('SIGKILL');
        reject(new Error(`the server did not end; it said\n${this.stderr}`));
      }, STOP_DEADLINE);
    });
    try {
      this.#stopped = true;
      return await Promise.race([this.exit, late]);
    } finally {
      clearTimeout(timer);
    }
  }

  /** Ends the server in the ordinary way and checks that it found nothing to complain about. */
  async stop(signal: NodeJS.Signals = 'SIGTERM'): Promise<void> {
    this.signal(signal);
    const end = await this.ended();
    expect(end, this.stderr).toEqual({ code: 0, signal: null });
    expect(this.#output.stdout, 'standard output is the URI and nothing else').toBe(`${this.uri}\n`);
    expect(
      this.log.filter(({ level }) => level >= FATAL),
      'the log has no fatal error',
    ).toEqual([]);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await using _cleanup = this.#cleanup;
    if (!this.#stopped) await this.stop();
  }
}

/** Collects what the server prints while it runs. */
class ServerOutput {
  stdout = '';
  stderr = '';

  constructor(child: ChildProcess) {
    child.stdout?.setEncoding('utf8').on('data', (text: string) => {
      this.stdout += text;
    });
    child.stderr?.setEncoding('utf8').on('data', (text: string) => {
      this.stderr += text;
    });
  }
}

export interface StartOptions {
  /** What runs the server, in place of the program itself: setpriv, for example. */
  readonly through?: readonly [string, ...string[]];
  readonly environment?: Readonly<Record<string, string>>;
}

const LISTENER_OPTIONS: ReadonlySet<string> = new Set(['-U', '--unix', '-p', '--port', '-b', '--bind']);

/** Starts the server with these arguments; on a Unix socket of its own unless they name a listener. */
export async function startServer(args: readonly string[], options: StartOptions = {}): Promise<NbdServer> {
  if (args.some((argument) => LISTENER_OPTIONS.has(argument))) return start(args, options, new Cleanup());
  const cleanup = new Cleanup();
  const directory: TemporaryDirectory = cleanup.use(await temporaryDirectory());
  return start([...args, '--unix', directory.file('nbd.sock')], options, cleanup);
}

/** Starts the server exactly as given, with the listener it has by default. */
export async function startServerAsGiven(
  args: readonly string[],
  options: StartOptions = {},
): Promise<NbdServer> {
  return start(args, options, new Cleanup());
}

async function start(
  args: readonly string[],
  { through, environment }: StartOptions,
  cleanup: Cleanup,
): Promise<NbdServer> {
  const [program, ...rest] = [...(through ?? []), ...PROGRAM, ...args] as [string, ...string[]];
  const child = spawn(program, rest, {
    env: childEnvironment(environment),
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  const output = new ServerOutput(child);
  const exit = new Promise<ServerExit>((resolveExit, reject) => {
    child.once('error', reject);
    child.once('close', (code, signal) => {
      resolveExit({ code, signal });
    });
  });
  let ended: ServerExit | undefined;
  void exit.then(
    (end) => {
      ended = end;
    },
    () => undefined,
  );
  try {
    const uri = await eventually(
      `nbd-serve ${args.join(' ')} prints its URI`,
      () => {
        if (ended !== undefined) {
          throw new Error(`nbd-serve ${args.join(' ')} ended with code ${ended.code}\n${output.stderr}`);
        }
        const end = output.stdout.indexOf('\n');
        return end === -1 ? undefined : output.stdout.slice(0, end);
      },
      START_DEADLINE,
    );
    return new NbdServer(child, uri, output, exit, cleanup);
  } catch (error) {
    child.kill('SIGKILL');
    await cleanup[Symbol.asyncDispose]();
    throw error;
  }
}

/**
 * Starts a server that has to refuse: nothing on standard output, a non-zero exit code, and a message for people
 * in at most `lines` lines. Returns the message.
 */
export async function expectRefusal(
  args: readonly string[],
  options: StartOptions & { readonly lines?: number } = {},
): Promise<string> {
  const command = [...(options.through ?? []), ...PROGRAM, ...args] as [string, ...string[]];
  const { code, stdout, stderr } = await attempt(command, { deadline: START_DEADLINE });
  expect(code, stderr).not.toBe(0);
  expect(stdout).toBe('');
  expect(stderr, 'an error message, not a stack trace').not.toMatch(/^\s+at /m);
  expect(stderr.endsWith('\n'), 'the message ends with a newline').toBe(true);
  const lines = stderr.trimEnd().split('\n');
  expect(lines.length, stderr).toBeLessThanOrEqual(options.lines ?? 1);
  expect(lines[0]).toMatch(/\w/);
  return stderr.trimEnd();
}
