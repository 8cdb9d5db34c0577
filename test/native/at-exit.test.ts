/** How a process ends with operations pending, and what an exception in `done` costs. */
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { cleanExit, runChild, temporaryFolder } from './support.ts';

function runScenario(scenario: string) {
  return runChild('at-exit-child.mjs', [scenario, join(temporaryFolder(), 'file')]);
}

test.each([
  ['exit-pending', 'exiting\n'],
  ['natural', 'drained 0\n'],
  ['queued-exit-pending', 'exiting\n'],
  ['queued-natural', 'all read\n'],
  ['queued-exit-in-done', 'first\n'],
  ['idle', 'idle\n'],
  ['never-used', ''],
  ['exit-in-done', 'first\n'],
  ['ticks', 'done 0, tick 0, microtask 0, done 1, tick 1, microtask 1, done 2, tick 2, microtask 2\n'],
  ['thrown', 'uncaught 5, completed 20\n'],
  ['one-thread', 'in order\n'],
  ['resized', 'resized\n'],
  ['exit-event', 'exit event\n'],
])('%s', async (scenario, stdout) => {
  expect(await runScenario(scenario)).toMatchObject({ ...cleanExit(stdout), stderr: '' });
});

test('an exception that nobody handles ends the process with its message', async () => {
  const child = await runScenario('unhandled');
  expect(child).toMatchObject({ code: 1, signal: null, stdout: '' });
  expect(child.stderr).toContain('Thrown by done');
});

test('a thrown null is an exception like any other', async () => {
  expect(await runScenario('thrown-null')).toMatchObject(cleanExit('uncaught null\n'));
});
