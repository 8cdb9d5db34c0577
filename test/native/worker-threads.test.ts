/** Several environments in one process: at the same time, one after the other, and cut short. */
import { expect, test } from 'vitest';
import { cleanExit, runChild, temporaryFolder } from './support.ts';

test.each([
  'together',
  'alone',
  'terminated',
  'terminated-busy',
  'terminated-listening',
  'terminated-in-tls',
  'exit-in-done',
  'main-exits',
])('environments %s', async (scenario) => {
  const child = await runChild('worker-threads-child.mjs', [scenario, temporaryFolder()]);
  expect(child).toMatchObject({ ...cleanExit(`${scenario} done\n`), stderr: '' });
});
