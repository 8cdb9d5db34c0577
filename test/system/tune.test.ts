/** `nbd-serve tune` as a process: real sweeps with little data, and what can go wrong with them. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { chmod, link, mkdir, readdir, readFile, readlink, symlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { attempt, childEnvironment, run } from '../support/command.ts';
import { createFullImage, sha256 } from '../support/image.ts';
import { eventually } from '../support/polling.ts';
import { PYTHON } from '../support/python.ts';
import { PROGRAM } from '../support/server.ts';
import { type FileSystemType, MiB, scratchFileSystem } from '../support/storage.ts';
import { temporaryDirectory } from '../support/temporary-directory.ts';

const SMALL = ['--size', '8M', '--repeat', '2', '--windows', '3,7', '--window-size', '256K,1M'];
const SETTING_COUNT = 5;

interface SettingReport {
  readonly cache: 'default' | 'none';
  readonly windows: number | null;
  readonly windowBytes: number | null;
  readonly bytesPerSecond: number;
  readonly runs: readonly number[];
  readonly p99Ms: number;
  readonly peakResidentBytes: number;
  readonly leftResidentBytes: number;
}

interface SweepReport {
  readonly scratchBytes: number;
  readonly directory: string;
  readonly settings: readonly SettingReport[];
  readonly recommended: {
    readonly cache: string;
    readonly windows: number;
    readonly windowBytes: number;
    readonly options: string;
    readonly reason: string;
  };
}

function tune(...args: readonly string[]): [string, ...string[]] {
  return [...PROGRAM, 'tune', ...args];
}

/** Runs a sweep that has to be refused in one line, before it writes anything. */
async function refusalOf(...args: readonly string[]): Promise<string> {
  const { code, stdout, stderr } = await attempt(tune(...args), { deadline: 20_000 });
  expect({ code, stdout }, stderr).toEqual({ code: 1, stdout: '' });
  expect(stderr.trimEnd().split('\n'), stderr).toHaveLength(1);
  return stderr;
}

describe.each<FileSystemType>(['ext4', 'xfs', 'btrfs'])('on %s', (type) => {
  test.each(['sequential', 'random'])(
    'a %s sweep measures every setting and leaves no file',
    async (pattern) => {
      await using scratch = await scratchFileSystem(type);
      const image = scratch.file('disk.img');
      await createFullImage(image, MiB);
      const content = await sha256(image);
      const before = await readdir(scratch.path);
      const report = JSON.parse(
        await run(tune(image, ...SMALL, '--pattern', pattern, '--json')),
      ) as SweepReport;

      expect(report).toMatchObject({ pattern, scratchBytes: 8 * MiB, repeats: 2, directory: scratch.path });
      expect(report.settings.map(({ cache, windows, windowBytes }) => [cache, windows, windowBytes])).toEqual(
        [
          ['default', null, null],
          ['none', 3, 256 * 1024],
          ['none', 7, 256 * 1024],
          ['none', 3, MiB],
          ['none', 7, MiB],
        ],
      );
      for (const setting of report.settings) {
        expect(setting.runs).toHaveLength(2);
        expect(setting.bytesPerSecond).toBeGreaterThan(0);
        expect(setting.p99Ms).toBeGreaterThan(0);
        if (setting.cache === 'none') expect(setting.leftResidentBytes).toBe(0);
        else expect(setting.leftResidentBytes).toBeGreaterThan(4 * MiB);
      }
      const { recommended } = report;
      expect(report.settings.slice(1)).toContainEqual(
        expect.objectContaining({ windows: recommended.windows, windowBytes: recommended.windowBytes }),
      );
      expect(await readdir(scratch.path)).toEqual(before);
      expect(await sha256(image)).toBe(content);
    },
  );
});

test('prints a table in which the recommended setting is marked, and draws the plot', async () => {
  await using directory = await temporaryDirectory();
  const plot = directory.file('plot & <chart>.svg');
  const { code, stdout, stderr } = await attempt(tune(directory.path, ...SMALL, '--plot', plot));
  expect({ code, stderr }).toEqual({ code: 0, stderr: '' });

  const lines = stdout.split('\n');
  const rows = lines.filter((line) => /^ +(default|none) /.test(line));
  expect(rows).toHaveLength(SETTING_COUNT);
  expect(new Set(rows.map((row) => row.replace(/ {2}\*$/, '').length)).size, 'aligned').toBe(1);
  const [cache, windows, windowSize] =
    rows
      .find((row) => row.endsWith('*'))
      ?.trim()
      .split(/\s+/) ?? [];
  expect(cache).toBe('none');
  expect(lines).toContain(`* recommended: --cache none --windows ${windows} --window-size ${windowSize}`);

  const texts = await svgTexts(plot);
  for (const text of ['cache=default', 'windows of 256K', 'windows of 1M', 'recommended']) {
    expect(texts).toContain(text);
  }
  expect(texts.filter((text) => text === '7')).toHaveLength(2);
  expect(texts.join(' ')).toContain(`--windows ${windows} --window-size ${windowSize}`);
  expect(await readdir(directory.path)).toEqual(['plot & <chart>.svg']);
});

/** The texts of an SVG; fails when it is no well-formed XML. */
async function svgTexts(path: string): Promise<string[]> {
  const script = `
import json, sys, xml.etree.ElementTree as tree
root = tree.parse(sys.argv[1]).getroot()
assert root.tag == '{http://www.w3.org/2000/svg}svg', root.tag
print(json.dumps([''.join(text.itertext()) for text in root.iter('{http://www.w3.org/2000/svg}text')]))
`;
  return JSON.parse(await run([PYTHON, '-c', script, path])) as string[];
}

test('measures where the file is, not where a symbolic link to it is', async () => {
  await using directory = await temporaryDirectory();
  await mkdir(directory.file('disk'));
  await mkdir(directory.file('links'));
  await createFullImage(directory.file('disk/disk.img'), MiB);
  await symlink('../disk/disk.img', directory.file('links/link.img'));
  const { directory: measured } = JSON.parse(
    await run(
      tune(directory.file('links/link.img'), '--size', '1M', '--repeat', '1', '--windows', '1', '--json'),
    ),
  ) as SweepReport;
  expect(measured).toBe(directory.file('disk'));
});

describe('in the middle of a sweep', () => {
  /** Descriptors of the process that lead into the directory: the scratch file among them. */
  async function opened(pid: number, directory: string): Promise<string[]> {
    const folder = `/proc/${pid}/fd`;
    const targets = await Promise.all(
      (await readdir(folder).catch(() => [])).map((fd) => readlink(join(folder, fd)).catch(() => '')),
    );
    return targets.filter((target) => target.startsWith(directory));
  }

  test.each<[NodeJS.Signals, number | null]>([
    ['SIGINT', 130],
    ['SIGTERM', 143],
    ['SIGKILL', null],
  ])('%s leaves nothing behind, at any moment', async (signal, expectedCode) => {
    await using directory = await temporaryDirectory();
    const image = directory.file('disk.img');
    await createFullImage(image, MiB);
    for (const delay of [0, 30, 200, 700]) {
      const [program, ...args] = tune(image, '--size', '64M', '--repeat', '100');
      const child = spawn(program, args, { env: childEnvironment(), stdio: ['ignore', 'pipe', 'pipe'] });
      let output = '';
      for (const stream of [child.stdout, child.stderr]) {
        stream.setEncoding('utf8').on('data', (text: string) => {
          output += text;
        });
      }
      const ended = once(child, 'close') as Promise<[number | null, NodeJS.Signals | null]>;
      await eventually('the scratch file is open', async () =>
        (await opened(child.pid ?? 0, directory.path)).length > 0 ? true : undefined,
      );
      expect(await readdir(directory.path)).toEqual(['disk.img']);
      await new Promise((resolve) => setTimeout(resolve, delay));
      child.kill(signal);
      const [code, killedBy] = await ended;
      expect(code, output).toBe(expectedCode);
      expect(killedBy).toBe(expectedCode === null ? signal : null);
      expect(output).toBe(expectedCode === null ? '' : `nbd-serve: Stopped by ${signal}\n`);
      expect(await readdir(directory.path)).toEqual(['disk.img']);
    }
  });

  test('Ctrl-C in a terminal removes the progress bar and gives the cursor back', async () => {
    await using directory = await temporaryDirectory();
    const script = `
import os, pty, sys
child, terminal = pty.fork()
if child == 0:
    os.execvp(sys.argv[1], sys.argv[1:])
output = b''
sent = False
while True:
    try:
        data = os.read(terminal, 65536)
    except OSError:
        break
    if not data:
        break
    output += data
    if not sent and b'--cache none' in output:
        sent = True
        os.write(terminal, b'\\x03')
code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
assert code == 130, (code, output)
assert b'%' in output and b'MiB' in output, output
shown, hidden = output.rindex(b'\\x1b[?25h'), output.rindex(b'\\x1b[?25l')
assert shown > hidden, output
assert output.endswith(b'nbd-serve: Stopped by SIGINT\\r\\n'), output[-200:]
`;
    await run([PYTHON, '-c', script, ...tune(directory.path, '--size', '64M', '--repeat', '100')]);
    expect(await readdir(directory.path)).toEqual([]);
  });
});

describe('is refused', () => {
  test('without a file or directory to measure at', async () => {
    await using directory = await temporaryDirectory();
    const missing = directory.file('missing/disk.img');
    expect(await refusalOf(missing)).toContain(
      `Cannot tune for "${missing}": there is no such file or directory`,
    );
  });

  test('on tmpfs', async () => {
    expect(await refusalOf('/dev/shm')).toMatch(/"\/dev\/shm".* tmpfs/);
  });

  test('on a FIFO, and at a device', async () => {
    await using directory = await temporaryDirectory();
    await run(['mkfifo', directory.file('fifo')]);
    expect(await refusalOf(directory.file('fifo'))).toContain('no regular file');
    expect(await refusalOf('/dev/null')).toContain('no regular file');
  });

  test('when there is not enough space, which is seen before anything is written', async () => {
    await using scratch = await scratchFileSystem('ext4', 32 * MiB);
    const message = await refusalOf(scratch.path, '--size', '1G');
    expect(message).toMatch(
      /Not enough space in ".*": the scratch file needs 1073741824 bytes, \d+ are free/,
    );
    expect(await readdir(scratch.path)).toEqual(['lost+found']);
  });

  test('when another program takes the space on the way', async () => {
    await using scratch = await scratchFileSystem('ext4');
    // Waits for the sweep to begin, then takes what is left.
    const script = `
import os, sys
directory = sys.argv[1]
free = lambda: os.statvfs(directory).f_bavail * os.statvfs(directory).f_frsize
begin = free()
print(begin // 2**20 - 64, flush=True)
while free() > begin - 2**24:
    pass
fd = os.open(directory + '/other', os.O_WRONLY | os.O_CREAT)
size = 2**22
while size >= 4096:
    try:
        os.posix_fallocate(fd, os.fstat(fd).st_size, size)
    except OSError:
        size //= 2
`;
    const other = spawn(PYTHON, ['-c', script, scratch.path], {
      env: childEnvironment(),
      stdio: ['ignore', 'pipe', 'inherit'],
    });
    const [mebibytes] = (await once(other.stdout.setEncoding('utf8'), 'data')) as [string];
    const ended = once(other, 'close');
    const message = await refusalOf(scratch.path, '--size', `${mebibytes.trim()}M`);
    expect(message).toMatch(/^nbd-serve: Writing the scratch file in ".*" failed: \w+: ENOSPC\n$/);
    await ended;
    expect((await readdir(scratch.path)).sort()).toEqual(['lost+found', 'other']);
  });

  test.runIf(process.getuid?.() === 0)('without permission', async () => {
    await using directory = await temporaryDirectory();
    await chmod(directory.path, 0o555);
    const caps = '-dac_override,-dac_read_search';
    const { code, stderr } = await attempt([
      'setpriv',
      `--bounding-set=${caps}`,
      `--inh-caps=${caps}`,
      '--reuid=65534',
      '--clear-groups',
      ...tune(directory.path),
    ]);
    expect(code).toBe(1);
    expect(stderr).toMatch(/^nbd-serve: Cannot make a scratch file in ".*": permission denied\n$/);
  });

  test('with a plot that cannot be written, before the sweep', async () => {
    await using directory = await temporaryDirectory();
    const image = directory.file('disk.img');
    await createFullImage(image, MiB);
    await link(image, directory.file('same.img'));
    const plot = directory.file('missing/out.svg');
    expect(await refusalOf(image, '--size', '1G', '--plot', plot)).toContain(
      `Cannot write the plot "${plot}": there is no such directory`,
    );
    expect(await refusalOf(image, '--plot', directory.path)).toContain('it is a directory');
    for (const same of [image, directory.file('same.img')]) {
      expect(await refusalOf(image, '--plot', same)).toContain('never written');
    }
  });

  test('with a plot when the chart library is not installed', async () => {
    await using directory = await temporaryDirectory();
    const hook = directory.file('hide-echarts.mjs');
    await writeFile(
      hook,
      `import { register } from 'node:module';
       register('data:text/javascript,' + encodeURIComponent(\`
         export async function resolve(name, context, next) {
           if (name === 'echarts') throw new Error('hidden');
           return next(name, context);
         }\`));`,
    );
    const { code, stdout, stderr } = await attempt(
      tune(directory.path, ...SMALL, '--plot', directory.file('out.svg')),
      { environment: { NODE_OPTIONS: `--import=${hook}` } },
    );
    expect({ code, stdout }).toEqual({ code: 1, stdout: '' });
    expect(stderr).toBe(
      'nbd-serve: --plot needs the package echarts, which is not installed: npm install echarts\n',
    );
    expect(await readdir(directory.path)).toEqual(['hide-echarts.mjs']);
  });
});

test('the documentation shows a table as it is printed', async () => {
  const readme = await readFile('docs/tune.md', 'utf8');
  const head = /^ +cache +windows +window-size .*$/m;
  await using directory = await temporaryDirectory();
  const printed = await run(tune(directory.path, '--size', '1M', '--repeat', '1', '--windows', '1'));
  const names = (text: string): string[] => head.exec(text)?.[0].trim().split(/\s+/) ?? [];
  expect(names(printed).length).toBeGreaterThan(5);
  expect(names(readme)).toEqual(names(printed));
});
