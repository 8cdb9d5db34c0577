import { readdir, readFile, rm } from 'node:fs/promises';
import { afterAll } from 'vitest';
import { attempt, privileged, run } from './command.ts';
import { eventually } from './polling.ts';
import { remainingDirectories } from './temporary-directory.ts';
import { testId, testIdEntry } from './test-id.ts';

/** Processes started by this test file, found by the identifier in their environment. */
async function remainingProcesses(): Promise<number[]> {
  const found: number[] = [];
  for (const name of await readdir('/proc')) {
    const pid = Number(name);
    if (!Number.isInteger(pid) || pid === process.pid) continue;
    try {
      const environment = await readFile(`/proc/${pid}/environ`, 'utf8');
      if (environment.split('\0').includes(testIdEntry())) found.push(pid);
    } catch {
      // Gone meanwhile, or another user's.
    }
  }
  return found;
}

async function remainingMounts(): Promise<string[]> {
  const mounts = await readFile('/proc/self/mounts', 'utf8');
  return mounts
    .split('\n')
    .map((line) => line.split(' ')[1] ?? '')
    .filter((mountPoint) => mountPoint.includes(testId()));
}

async function remainingLoopDevices(): Promise<string[]> {
  const list = await run(['losetup', '--list', '--noheadings', '--output', 'NAME,BACK-FILE']);
  return list
    .split('\n')
    .filter((line) => line.includes(testId()))
    .map((line) => line.split(/\s+/)[0] ?? '');
}

/** What a failed test cannot clean up itself must not disturb the next file; it is reported all the same. */
async function removeLeftovers(): Promise<string[]> {
  const report: string[] = [];
  for (const pid of await remainingProcesses()) {
    const command = await readFile(`/proc/${pid}/cmdline`, 'utf8').catch(() => '');
    report.push(`process ${pid}: ${command.replaceAll('\0', ' ')}`);
    await attempt(privileged('kill', '-KILL', String(pid)));
  }
  for (const mountPoint of (await remainingMounts()).reverse()) {
    report.push(`mount ${mountPoint}`);
    await attempt(privileged('umount', '--lazy', mountPoint));
  }
  for (const device of await remainingLoopDevices()) {
    report.push(`loop device ${device}`);
    await attempt(privileged('losetup', '--detach', device));
  }
  for (const directory of await remainingDirectories()) {
    report.push(`directory ${directory}`);
    await rm(directory, { recursive: true, force: true });
  }
  return report;
}

// Before the first test, so that every child process and directory carries the identifier.
testId();

afterAll(async () => {
  // A killed process may need a moment to disappear.
  await eventually(
    'all processes of the tests have ended',
    async () => ((await remainingProcesses()).length === 0 ? true : undefined),
    10_000,
  ).catch(() => undefined);
  const report = await removeLeftovers();
  if (report.length > 0) throw new Error(`the tests left this behind:\n${report.join('\n')}`);
});
