import { type ChildProcess, spawn } from 'node:child_process';
import { testId } from './test-id.ts';

export interface CommandResult {
  readonly code: number;
  readonly stdout: string;
  readonly stderr: string;
}

export interface CommandOptions {
  readonly input?: string;
  readonly environment?: Readonly<Record<string, string>>;
  /** Milliseconds after which a hanging command is killed and reported. */
  readonly deadline?: number;
  /** Called with the process as soon as it has been started, for tests that send it signals. */
  readonly started?: (child: ChildProcess) => void;
}

const DEFAULT_DEADLINE = 120_000;

/** A command of ours that needs root: as it is for root, through sudo for everybody else. */
export function privileged(...command: [string, ...string[]]): [string, ...string[]] {
  return process.getuid?.() === 0 ? command : ['sudo', '-n', '-E', ...command];
}

export function childEnvironment(extra: Readonly<Record<string, string>> = {}): NodeJS.ProcessEnv {
  // Messages are matched in English, and the identifier is how leftovers are found.
  return { ...process.env, LC_ALL: 'C.UTF-8', NBD_SERVE_TEST_ID: testId(), ...extra };
}

/** How an error message names a command: a whole script as an argument would bury the message. */
function describe(command: readonly string[]): string {
  return command.map((part) => (part.length > 200 ? `${part.trim().slice(0, 20)}...` : part)).join(' ');
}

/** Runs a command to its end, whatever its exit code; a signal or the deadline is an error. */
export async function attempt(
  command: readonly [string, ...string[]],
  options: CommandOptions = {},
): Promise<CommandResult> {
  const [program, ...args] = command;
  const child = spawn(program, args, {
    env: childEnvironment(options.environment),
    stdio: ['pipe', 'pipe', 'pipe'],
  });
  options.started?.(child);
  let stdout = '';
  let stderr = '';
  child.stdout.setEncoding('utf8').on('data', (text: string) => {
    stdout += text;
  });
  child.stderr.setEncoding('utf8').on('data', (text: string) => {
    stderr += text;
  });
  // A command may well exit without reading its input.
  child.stdin.on('error', () => undefined);
  child.stdin.end(options.input ?? '');

  let late = false;
  const timer = setTimeout(() => {
    late = true;
    child.kill('SIGKILL');
  }, options.deadline ?? DEFAULT_DEADLINE);
  try {
    const [code, signal] = await new Promise<[number | null, NodeJS.Signals | null]>((resolve, reject) => {
      child.once('error', reject);
      child.once('close', (...end) => {
        resolve(end);
      });
    });
    if (code === null) {
      const end = late ? 'did not end and was killed' : `ended with ${signal}`;
      throw new Error(`${describe(command)}: ${end}\n${stdout}${stderr}`);
    }
    return { code, stdout, stderr };
  } finally {
    clearTimeout(timer);
  }
}

/** Runs a command that must succeed and returns what it printed. */
export async function run(
  command: readonly [string, ...string[]],
  options: CommandOptions = {},
): Promise<string> {
  const { code, stdout, stderr } = await attempt(command, options);
  if (code !== 0) throw new Error(`${describe(command)}: exit code ${code}\n${stderr}${stdout}`);
  return stdout;
}
