/**
 * How much memory this process may still take: what the machine has to spare, and what each of the cgroups that
 * the process is in leaves of its limit (Documentation/admin-guide/cgroup-v2.rst and cgroup-v1/memory.rst). Node's
 * process.availableMemory() looks at the innermost group only; systemd and Kubernetes set limits further out, too.
 */
import { readFileSync } from 'node:fs';
import { freemem } from 'node:os';
import { dirname, join } from 'node:path';

/** Where the files are; tests have their own. */
export interface MemoryFiles {
  /** `/proc/self/cgroup` */
  readonly membership: string;
  /** `/sys/fs/cgroup` */
  readonly mount: string;
  /** Bytes, MemAvailable of `/proc/meminfo`. */
  readonly machineBytes: number;
}

/** The names of a limit and of what counts against it. */
interface Controller {
  readonly root: string;
  readonly limits: readonly string[];
  readonly usage: string;
  /** Field of `memory.stat`: page cache that the kernel drops when the group reaches its limit. */
  readonly reclaimable: string;
}

/** Bytes. */
export function availableMemory(files: MemoryFiles = systemFiles()): number {
  const left = readLines(files.membership).flatMap((line) => {
    // 0::/path in version 2; 4:memory:/path in version 1, where other controllers may stand beside it.
    const [, controllers = '', group = '/'] = /^\d+:([^:]*):(.*)$/.exec(line) ?? [];
    if (controllers === '') {
      return groupsLeave(
        {
          root: files.mount,
          limits: ['memory.max', 'memory.high'],
          usage: 'memory.current',
          reclaimable: 'inactive_file',
        },
        group,
      );
    }
    return controllers.split(',').includes('memory')
      ? groupsLeave(
          {
            root: join(files.mount, 'memory'),
            limits: ['memory.limit_in_bytes'],
            usage: 'memory.usage_in_bytes',
            reclaimable: 'total_inactive_file',
          },
          group,
        )
      : [];
  });
  return Math.max(0, Math.min(files.machineBytes, ...left));
}

/** What is left of the limit of a group and of each one around it. */
function groupsLeave(controller: Controller, group: string): number[] {
  const left: number[] = [];
  for (let path = group; ; path = dirname(path)) {
    const folder = join(controller.root, path);
    // Not there, as in a container that sees no more than its own group at the root; or "max".
    const limit = Math.min(...controller.limits.map((name) => readNumber(join(folder, name))));
    const usage = readNumber(join(folder, controller.usage));
    if (Number.isFinite(limit) && Number.isFinite(usage)) {
      left.push(limit - usage + readField(join(folder, 'memory.stat'), controller.reclaimable));
    }
    if (path === '/' || path === '.') {
      return left;
    }
  }
}

function readNumber(path: string): number {
  const text = readLines(path)[0] ?? '';
  return /^\d+$/.test(text) ? Number(text) : Number.POSITIVE_INFINITY;
}

function readField(path: string, name: string): number {
  const line = readLines(path).find((text) => text.startsWith(`${name} `));
  return Number(line?.slice(name.length + 1) ?? 0);
}

function readLines(path: string): string[] {
  try {
    return readFileSync(path, 'utf8').trim().split('\n');
  } catch {
    return [];
  }
}

function systemFiles(): MemoryFiles {
  return { membership: '/proc/self/cgroup', mount: '/sys/fs/cgroup', machineBytes: freemem() };
}
