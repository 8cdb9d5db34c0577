/** The exhaustive interleavings of model/model.cc, and the proof that they find what they are there to find. */
import { execFileSync, spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';

const MODEL = resolve(import.meta.dirname, 'model');
const NATIVE = resolve(import.meta.dirname, '../../native');
const WINDOWS = join(NATIVE, 'write_windows.cc');
const COMPILER = process.env['CXX'] ?? 'g++';
const COMPILE_MS = 120_000;

let folder: string;
let modelObject: string;
let model: string;

/** With g++ itself, not node-gyp: nothing of this is for users, and nothing of it needs Node. */
function compile(...values: string[]): void {
  const flags = ['-std=c++17', '-O2', '-Wall', '-Wextra', '-include', join(MODEL, 'sync.h')];
  execFileSync(COMPILER, [...flags, '-I', NATIVE, ...values], { encoding: 'utf8', stdio: 'pipe' });
}

/** Links the model with write_windows.cc as `change` leaves it. */
function buildModel(change: (source: string) => string): string {
  const source = join(folder, 'write_windows.cc');
  writeFileSync(source, change(readFileSync(WINDOWS, 'utf8')));
  const program = join(folder, `model-${Math.random()}`);
  compile(modelObject, source, '-o', program);
  return program;
}

function runModel(program: string, mutation = 'none'): { code: number | null; output: string } {
  const { status, stdout, stderr } = spawnSync(program, [mutation], { encoding: 'utf8' });
  return { code: status, output: stdout + stderr };
}

beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'nbd-serve-model-'));
  modelObject = join(folder, 'model.o');
  compile('-Werror', '-c', join(MODEL, 'model.cc'), '-o', modelObject);
  model = buildModel((source) => source);
}, COMPILE_MS);

afterAll(() => {
  rmSync(folder, { recursive: true, force: true });
});

test('no interleaving of writes, windows, flushes, errors and the end tells a lie', () => {
  const { code, output } = runModel(model);
  process.stdout.write(output);
  expect(code, output).toBe(0);
  const lines = output.trimEnd().split('\n');
  expect(lines.length).toBeGreaterThan(10);
  // Each program really loses data in some interleavings: else the promise was kept by nothing going wrong.
  for (const line of lines) {
    const [, losses] = /(\d+) ends with a loss$/.exec(line) ?? [];
    expect(Number(losses), line).toBeGreaterThan(0);
  }
});

describe('the search finds a version without', () => {
  test.each([
    ['the latch', 'no-latch'],
    ['the wait for calls that overlap the fdatasync', 'no-wait-for-watched'],
    ['a new fdatasync for a FLUSH that comes later', 'join-running-flush'],
    ['the result of the write that fills a window', 'unwatched-advance'],
    ['a memory longer than one report', 'report-once'],
    ['a record of changes that the pool makes', 'forgotten-change'],
  ])('%s', (_what, mutation) => {
    const { code, output } = runModel(model, mutation);
    expect(code, output).toBe(1);
    expect(output).toContain('VIOLATION');
  });

  test.each([
    [
      'the failure of a window that was waited for',
      'note(failure, call);\n  pending_bytes_',
      'pending_bytes_',
    ],
    [
      'the failures that a drain takes over',
      'if (is_drain && other->failure_.error == 0)',
      'if (false && is_drain)',
    ],
    [
      'the wait of a drain for the calls beside it',
      'wait_for_taken(lock);\n      if (settled)',
      'if (true || settled)',
    ],
    ['a wake-up after a window was given back', '  changed_.notify_all();\n', ''],
  ])('%s in write_windows.cc', (_what, from, to) => {
    const broken = buildModel((source) => {
      expect(source.split(from)).toHaveLength(2);
      return source.replace(from, to);
    });
    const { code, output } = runModel(broken);
    expect(code, output).toBe(1);
    expect(output).toContain('VIOLATION');
  });
});
