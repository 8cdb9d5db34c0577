/** Why a module could not be loaded, and where, in one line for its author. */
import { execFile } from 'node:child_process';
import { readFile } from 'node:fs/promises';
import { relative } from 'node:path';
import { fileURLToPath } from 'node:url';
import { inspect } from 'node:util';
import { describeError } from '../command-error.ts';

/** `file` is the module's path. */
export async function describeLoadError(error: unknown, file: string): Promise<string> {
  if (!(error instanceof Error)) {
    return `it threw ${inspect(error, { depth: 0 })}`;
  }
  const place = placeIn(error) ?? (error instanceof SyntaxError ? await placeByCheck(file) : undefined);
  const text = describeError(error)
    // jiti puts the kind in front and the place behind.
    .replace(/^ParseError: /, '')
    .replace(/\s+\/\S+:\d+:\d+\s*$/, '')
    .replace(/\s*Require stack:.*$/, '')
    .trim();
  return place === undefined ? text : `${text} (${place})`;
}

/** `file:line` of an error that says so, or of the first frame in somebody's file. */
function placeIn({ message, stack = '' }: Error): string | undefined {
  const [path, line] =
    match(message, /\s(\/\S+):(\d+):\d+\s*$/) ??
    match(stack, /^(file:\/\/\S+|\/\S+):(\d+)$/m) ??
    stack
      .split('\n')
      .map((frame) => match(frame, /^\s+at (?:.*\()?((?:file:\/\/)?\/[^()]+):(\d+):\d+\)?$/))
      .find((found) => found !== undefined && !isForeign(found[0])) ??
    [];
  return path === undefined ? undefined : `${show(path)}:${line}`;
}

function match(text: string, pattern: RegExp): readonly [string, string] | undefined {
  const [, path, line] = pattern.exec(text) ?? [];
  return path === undefined || line === undefined ? undefined : [path, line];
}

/** A frame of ours or of a library, which tells the author nothing. */
function isForeign(path: string): boolean {
  return path.includes('/node_modules/') || path.startsWith(new URL('../..', import.meta.url).href);
}

/**
 * Node keeps the place of a syntax error in JavaScript to itself, and prints it when it is asked for a check. From
 * standard input: before Node 26 it finds nothing in a module whose name and package.json do not say that it is one.
 */
async function placeByCheck(file: string): Promise<string> {
  const text = await readFile(file, 'utf8');
  const report = await new Promise<string>((resolve) => {
    const child = execFile(
      process.execPath,
      ['--input-type=module', '--check', '-'],
      (_error, _stdout, stderr) => resolve(stderr),
    );
    child.stdin?.on('error', () => {}).end(text);
  });
  const [, line] = /^\[stdin\]:(\d+)$/m.exec(report) ?? [];
  return line === undefined ? 'in a module that it imports' : `${show(file)}:${line}`;
}

/** Relative to where the user is, as compilers do. */
function show(path: string): string {
  return relative(process.cwd(), path.startsWith('file:') ? fileURLToPath(path) : path);
}
