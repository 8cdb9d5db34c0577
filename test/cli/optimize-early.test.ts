import { execFile } from 'node:child_process';
import { promisify } from 'node:util';
import { expect, test } from 'vitest';
import { optimizeEarly } from '../../src/cli/optimize-early.ts';

function flagsFor(version?: string): string[] {
  const flags: string[] = [];
  optimizeEarly(version, (flag) => void flags.push(flag));
  return flags;
}

test('only the V8 that was measured is told, by Node 20', () => {
  expect(flagsFor('11.3.244.8-node.38')).toEqual(['--interrupt-budget=4000']);
  expect(flagsFor('12.4.254.21-node.33')).toEqual([]);
  expect(flagsFor('13.6.233.17-node.50')).toEqual([]);
  expect(flagsFor('1.1')).toEqual([]);
});

test('this V8 knows what it is told', async () => {
  const tell = flagsFor().map((flag) => `require('node:v8').setFlagsFromString('${flag}');`);
  // It complains to standard error of what it does not know, and goes on.
  const { stderr } = await promisify(execFile)(process.execPath, ['-e', tell.join('')]);
  expect(stderr).toBe('');
});
