/** `--filter` on the command line: what is refused, before anything listens, and what is left behind then. */
import { existsSync, writeFileSync } from 'node:fs';
import { expect, test } from 'vitest';
import { FILTERS } from '../../src/filters/registry.ts';
import { temporaryDirectory } from '../support/temporary-directory.ts';
import { nbdServe } from './captured-output.ts';

test('--help of a serving command names every filter, and which end the first one is at', async () => {
  const { stdout } = await nbdServe('file', '--help');
  expect(stdout.replaceAll(/\s+/g, ' ')).toContain('the first one is nearest the client');
  for (const { name, usage, summary } of FILTERS) {
    expect(stdout).toContain(name);
    expect(stdout).toContain(usage.replace(/^\[/, ''));
    expect(stdout).toContain(summary);
  }
});

test.each<[string[], RegExp]>([
  [['--filter', 'zip'], /There is no filter "zip"; there are cow, delay,/],
  [['--filter', ''], /There is no filter ""/],
  [['--filter', 'log', '--filter', 'rate:speed=1'], /has no option "speed"; there are rate, connection-rate/],
  [['--filter', 'partition:1'], /has no partition table/],
  [['--filter', 'offset:2M'], /offset=2M ends at 2M, past the end of the export, which has 1M/],
  [['--filter', 'offset:offset=1000K,range=25K'], /range=25K ends at 1025K, past the end/],
  [['--filter', 'cow:overlay=/nonexistent/overlay'], /cannot create "\/nonexistent\/overlay": ENOENT/],
  [['--filter', 'cow:overlay=IMAGE'], /"[^"]+image" is no overlay of nbd-serve/],
  [['--filter', 'log:file=/nonexistent/log'], /cannot write "\/nonexistent\/log": ENOENT/],
])('%j is refused in one line, and the image let go of', async (words, reason) => {
  await using directory = await temporaryDirectory();
  const image = directory.file('image');
  writeFileSync(image, Buffer.alloc(1024 * 1024));
  const options = words.map((word) => word.replace('IMAGE', image));
  // Twice: a lock that was left behind would refuse the second one.
  for (const _ of [1, 2]) {
    const socket = directory.file('socket');
    const { code, stdout, stderr } = await nbdServe('file', image, '-U', socket, ...options);
    expect({ code, stdout }).toEqual({ code: 1, stdout: '' });
    expect(stderr).toMatch(/^[^\n]+\n$/);
    expect(stderr).toMatch(reason);
    expect(existsSync(socket)).toBe(false);
  }
});

test('a new overlay is gone again when nothing can be listened on', async () => {
  await using directory = await temporaryDirectory();
  const [image, overlay, taken] = ['image', 'overlay', 'taken'].map((name) => directory.file(name)) as [
    string,
    string,
    string,
  ];
  writeFileSync(image, Buffer.alloc(1024 * 1024));
  writeFileSync(taken, '');
  const { stderr } = await nbdServe('file', image, '-U', taken, '--filter', `cow:overlay=${overlay}`);
  expect(stderr).toContain('no socket');
  expect(existsSync(overlay)).toBe(false);
});
