import { readFile } from 'node:fs/promises';
import { expect, test } from 'vitest';
import { attempt, run } from '../support/command.ts';
import { temporaryDirectory } from '../support/temporary-directory.ts';

// Not the command tsx: it kills what does not react to a signal within 30 ms.
const BENCH = [process.execPath, '--import', 'tsx', 'test/bench/bench.ts'] as const;
const TINY = ['--repeats', '1', '--milliseconds', '50', '--size', '16M'] as const;

interface Report {
  readonly results: readonly {
    readonly cells: readonly {
      readonly contests: readonly {
        readonly server: string;
        readonly runs: readonly { readonly operations: number; readonly cpuSeconds: number }[];
      }[];
    }[];
  }[];
}

test('the benchmark measures every server of a cell and writes what it prints', async () => {
  await using directory = await temporaryDirectory();
  const file = directory.file('report.json');
  const filter = ['--filter', '^file-default-unix/4k-read-d4-c1$'];
  const text = await run([
    ...BENCH,
    ...TINY,
    ...filter,
    '--json',
    file,
    '--charts',
    directory.file('charts'),
  ]);
  expect(text).toContain('| 4k-read-d4-c1 |');
  const { results } = JSON.parse(await readFile(file, 'utf8')) as Report;
  const contests = results[0]?.cells[0]?.contests ?? [];
  expect(contests.map(({ server }) => server)).toEqual(
    expect.arrayContaining(['nbd-serve', 'nbdkit', 'qemu-nbd', 'floor']),
  );
  for (const { server, runs } of contests) {
    expect(runs[0]?.operations, server).toBeGreaterThan(0);
  }
  expect(await readFile(directory.file('charts/file-default-unix.svg'), 'utf8')).toMatch(/^<svg /);
});

test.each([
  ['bench', ['--filter', '^file-default-unix/4k-read', '--size', '16M'], '4k-read-d1-c1'],
  ['residency', ['--size', '64M'], 'nbdcopy in'],
])('an interrupted benchmark leaves nothing running and no files: %s', async (name, options, begun) => {
  // What it leaves, this file's own clean-up finds and reports.
  const script = `test/bench/${name}.ts`;
  const { code, stderr } = await attempt([process.execPath, '--import', 'tsx', script, ...options], {
    started: (child) => {
      child.stderr?.on('data', (text: Buffer) => {
        if (text.includes(begun)) {
          child.kill('SIGINT');
        }
      });
    },
  });
  expect(code).toBe(130);
  expect(stderr).toContain('Stopped by SIGINT');
});
