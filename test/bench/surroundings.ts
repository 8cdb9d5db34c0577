/** What the figures depend on: machine, kernel, file system, versions. */
import { statfs } from 'node:fs/promises';
import { cpus, release, totalmem } from 'node:os';
import { attempt } from '../support/command.ts';

export interface Surroundings {
  readonly date: string;
  readonly machine: string;
  readonly kernel: string;
  /** The magic number of statfs(2). */
  readonly fileSystem: string;
  readonly versions: Readonly<Record<string, string>>;
}

const VERSION_COMMANDS: Readonly<Record<string, readonly [string, ...string[]]>> = {
  nbdkit: ['nbdkit', '--version'],
  'qemu-nbd': ['qemu-nbd', '--version'],
  'nbd-server': ['nbd-server', '-V'],
  fio: ['fio', '--version'],
  nbdcopy: ['nbdcopy', '--version'],
};

async function versionOf(command: readonly [string, ...string[]]): Promise<string> {
  const { stdout, stderr } = await attempt(command).catch(() => ({ stdout: '', stderr: '' }));
  return /\d+\.\d+(\.\d+)*/.exec(stdout + stderr)?.[0] ?? 'not installed';
}

export async function describeSurroundings(
  folder: string,
): Promise<Surroundings & { readonly text: string }> {
  const versions: Record<string, string> = { node: process.versions.node };
  for (const [name, command] of Object.entries(VERSION_COMMANDS)) {
    versions[name] = await versionOf(command);
  }
  const { type } = await statfs(folder);
  const surroundings = {
    date: new Date().toISOString(),
    machine: `${cpus().length} x ${cpus()[0]?.model.trim()}, ${(totalmem() / 2 ** 30).toFixed(0)} GiB`,
    kernel: `Linux ${release()}`,
    fileSystem: `0x${type.toString(16)}`,
    versions,
  };
  const list = Object.entries(versions).map((pair) => pair.join(' '));
  const { date, machine, kernel } = surroundings;
  return { ...surroundings, text: `${date.slice(0, 10)}: ${machine}, ${kernel}, ${list.join(', ')}` };
}
