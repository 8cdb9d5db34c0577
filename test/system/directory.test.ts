/** `nbd-serve directory`: what is an export, and that nothing else ever is. */
import { link, mkdir, rename, rm, symlink, writeFile } from 'node:fs/promises';
import { describe, expect, test } from 'vitest';
import { attempt, run } from '../support/command.ts';
import { createFullImage, createImage } from '../support/image.ts';
import { PageCacheProbe } from '../support/page-cache.ts';
import { eventually } from '../support/polling.ts';
import { PYTHON, python } from '../support/python.ts';
import { CACHE_MODES, expectRefusal, LOGGED, type NbdServer, startServer } from '../support/server.ts';
import { MiB } from '../support/storage.ts';
import { faults, straceTo } from '../support/strace.ts';
import { temporaryDirectory } from '../support/temporary-directory.ts';

function uriOf(server: NbdServer, name: string): string {
  return `nbd+unix:///${encodeURIComponent(name)}?socket=${server.socketPath}`;
}

/** The size that a client is told, or undefined when there is no such export. */
async function sizeOf(server: NbdServer, name: string): Promise<number | undefined> {
  const { code, stdout, stderr } = await attempt(['nbdinfo', '--size', uriOf(server, name)]);
  if (code === 0) return Number(stdout);
  expect(stderr).toContain('no export named');
  return undefined;
}

/** What LIST answers. */
async function list(server: NbdServer): Promise<Record<string, string>> {
  const script = `
h = nbd.NBD()
h.set_opt_mode(True)
h.connect_uri(uri)
found = []
h.opt_list(lambda name, description: found.append([name, description]))
h.opt_abort()
print(json.dumps(found))
`;
  const found = JSON.parse(await python(server.uri, script)) as [string, string][];
  expect(found.map(([name]) => name)).toEqual(found.map(([name]) => name).toSorted());
  return Object.fromEntries(found);
}

describe('what is an export', () => {
  test('regular files under their names, listed with their sizes, also those that appear later', async () => {
    await using directory = await temporaryDirectory();
    const names = ['a.img', 'b ü.img', '%2e%2e', '日本', '-x', '.hidden'];
    for (const [index, name] of names.entries())
      await createImage(directory.file(name), (index + 1) * 12_345);
    await mkdir(directory.file('folder'));
    await run(['mkfifo', directory.file('fifo')]);
    await using server = await startServer(['directory', directory.path]);
    const expected = Object.fromEntries(names.map((name, index) => [name, `${(index + 1) * 12_345} bytes`]));
    expect(await list(server)).toEqual(expected);
    for (const [index, name] of names.entries())
      expect(await sizeOf(server, name)).toBe((index + 1) * 12_345);
    for (const name of ['', '.', '..', 'folder', 'fifo', 'nbd.sock', 'later', 'a.img/', './a.img']) {
      expect(await sizeOf(server, name), name).toBeUndefined();
    }

    await createImage(directory.file('later'), 0);
    expect(await sizeOf(server, 'later')).toBe(0);
    await rm(directory.file('a.img'));
    expect(await sizeOf(server, 'a.img')).toBeUndefined();
    await rename(directory.file('-x'), directory.file('later'));
    expect(await sizeOf(server, 'later')).toBe(5 * 12_345);
    expect(Object.keys(await list(server))).not.toContain('a.img');

    const info = JSON.parse(await run(['nbdinfo', '--list', '--json', server.uri])) as {
      readonly exports: readonly { readonly 'export-name': string; readonly 'export-size': number }[];
    };
    expect(info.exports.map((each) => [each['export-name'], each['export-size']])).toContainEqual([
      'later',
      5 * 12_345,
    ]);
  });

  test('names that are no UTF-8 are left out, and a list is cut at 10000', async () => {
    await using directory = await temporaryDirectory();
    const count = 10_005;
    await run([
      PYTHON,
      '-c',
      `import os, sys
os.chdir(sys.argv[1])
open(b'bad\\xff', 'w').close()
for index in range(${count}): open(f'{index:05}', 'w').close()`,
      directory.path,
    ]);
    await using server = await startServer(['directory', directory.path]);
    const names = Object.keys(await list(server));
    expect(names.length).toBe(10_000);
    expect(names.every((name) => /^\d{5}$/.test(name))).toBe(true);
    await expect
      .poll(
        () => server.log.filter(({ msg }) => msg?.includes('more files than LIST can show')).length,
        LOGGED,
      )
      .toBe(1);
    expect(await sizeOf(server, String(count - 1))).toBe(0);
  });

  test('the empty name is the default that -e names, whenever its file is there', async () => {
    await using directory = await temporaryDirectory();
    await using server = await startServer([
      'directory',
      directory.path,
      '-e',
      'disk',
      '--description',
      'gold',
    ]);
    expect(server.uri).toBe(`nbd+unix:///disk?socket=${server.socketPath}`);
    expect(await sizeOf(server, '')).toBeUndefined();
    await createImage(directory.file('disk'), MiB);
    expect(await sizeOf(server, '')).toBe(MiB);
    expect(await list(server)).toEqual({ disk: 'gold, 1048576 bytes' });
  });

  test('a file that may not be written is exported read-only, as all are with --read-only', async () => {
    await using directory = await temporaryDirectory();
    for (const name of ['mine', 'theirs']) await createImage(directory.file(name), MiB);
    await run(['chmod', '0666', directory.file('mine')]);
    const isReadOnly = (server: NbdServer, name: string): Promise<string> =>
      python(uriOf(server, name), 'print(connect().is_read_only())');
    const asNobody: [string, ...string[]] = ['setpriv', '--reuid=65534', '--regid=65534', '--clear-groups'];
    await using sockets = await temporaryDirectory();
    await run(['chmod', '0777', sockets.path]);
    const options = ['directory', directory.path, '--unix', sockets.file('s')];
    {
      await using server = await startServer(options, { through: asNobody });
      expect(await isReadOnly(server, 'mine')).toBe('False\n');
      expect(await isReadOnly(server, 'theirs')).toBe('True\n');
    }
    await using server = await startServer(['directory', directory.path, '--read-only']);
    expect(await isReadOnly(server, 'mine')).toBe('True\n');
  });

  test.each([
    [['directory', '/nonexistent'], /"\/nonexistent": there is no such directory/],
    [['directory', '/dev/null'], /"\/dev\/null": it is no directory/],
    [['directory', '/tmp', '-e', '../etc'], /"\.\.\/etc" cannot be the name of a file/],
    [['directory', '/tmp', '--windows', '3'], /--windows needs --cache none/],
    [['directory', '/dev/shm', '--cache', 'none'], /"\/dev\/shm": it is on tmpfs/],
  ])('%j is refused before anything listens', async (args, message) => {
    expect(await expectRefusal([...args, '-p', '0'])).toMatch(message);
  });
});

describe('nothing outside of the directory', () => {
  const traps = async (path: string): Promise<void> => {
    await mkdir(`${path}/images/sub`, { recursive: true });
    await writeFile(`${path}/secret`, 's'.repeat(4096));
    await createImage(`${path}/images/inside`, 512);
    await createImage(`${path}/images/sub/deep`, 1024);
    await symlink('inside', `${path}/images/link`);
    await symlink('sub/../sub/deep', `${path}/images/deep-link`);
    await symlink(`${path}/images/inside`, `${path}/images/absolute-link`);
    await symlink('../secret', `${path}/images/out`);
    await symlink(`${path}/secret`, `${path}/images/absolute-out`);
    await symlink('../images/inside', `${path}/images/out-and-in`);
    await symlink('/proc/self/exe', `${path}/images/magic`);
    await symlink('loop', `${path}/images/loop`);
  };
  const OUTSIDE = [
    'out',
    'absolute-out',
    'magic',
    'loop',
    '../secret',
    'sub/deep',
    '../images/inside',
    '\\..',
  ];

  test('links that stay inside are followed, others lead nowhere', async () => {
    await using directory = await temporaryDirectory();
    await traps(directory.path);
    await using server = await startServer(['directory', directory.file('images')]);
    for (const name of ['inside', 'link', 'absolute-link', 'out-and-in']) {
      expect(await sizeOf(server, name), name).toBe(512);
    }
    expect(await sizeOf(server, 'deep-link')).toBe(1024);
    for (const name of OUTSIDE) expect(await sizeOf(server, name), name).toBeUndefined();
    expect(Object.keys(await list(server))).toEqual([
      'absolute-link',
      'deep-link',
      'inside',
      'link',
      'out-and-in',
    ]);
    await server.stop();
    expect(server.log.filter(({ level }) => level >= 40)).toEqual([]);
  });

  test('where a sandbox has no openat2 no link is followed, and the log says so', async () => {
    await using directory = await temporaryDirectory();
    await traps(directory.path);
    const through = straceTo(
      directory.file('log'),
      '-e',
      'trace=openat2',
      '-e',
      'inject=openat2:error=EPERM',
    );
    await using server = await startServer(['directory', directory.file('images')], { through });
    await expect
      .poll(() => server.log, LOGGED)
      .toContainEqual(expect.objectContaining({ level: 40, errno: 'EPERM' }));
    expect(Object.keys(await list(server))).toEqual(['inside']);
    expect(await sizeOf(server, 'inside')).toBe(512);
    for (const name of ['link', 'absolute-link', ...OUTSIDE]) {
      expect(await sizeOf(server, name), name).toBeUndefined();
    }
  });

  test('also while a name changes under the server', async () => {
    await using directory = await temporaryDirectory();
    await traps(directory.path);
    await using server = await startServer(['directory', directory.file('images')]);
    const script = `
import threading
images = arguments[0]
os.chdir(images)
done = threading.Event()
def swap():
    while not done.is_set():
        for target in ('../secret', 'inside', arguments[0] + '/../secret', arguments[0] + '/inside'):
            os.symlink(target, 'new')
            os.rename('new', 'race')
        os.rename('sub', 'was')
        os.symlink('..', 'sub')
        os.unlink('sub')
        os.rename('was', 'sub')
os.symlink('sub/secret', 'through')
swapper = threading.Thread(target=swap)
swapper.start()
sizes = []
try:
    for turn in range(150):
        for name in ('race', 'through'):
            h = nbd.NBD()
            try:
                h.connect_uri(uri.replace(':///', ':///' + name))
                sizes.append(h.get_size())
                h.shutdown()
            except nbd.Error:
                sizes.append(None)
finally:
    done.set()
    swapper.join()
print(json.dumps(sorted({str(size) for size in sizes})))
`;
    const sizes = JSON.parse(await python(server.uri, script, [directory.file('images')])) as string[];
    expect(sizes).toEqual(['512', 'None']);
  });
});

describe('a file while it is open', () => {
  test('is locked alone, shared by its connections under all its names, and let go of afterwards', async () => {
    await using directory = await temporaryDirectory();
    await mkdir(directory.file('images'));
    const [one, other] = [directory.file('images/one'), directory.file('images/other')];
    await createFullImage(one, MiB);
    await createImage(other, MiB);
    await link(one, directory.file('images/alias'));
    await using server = await startServer(['directory', directory.file('images')]);
    await using holder = await startServer(['file', other]);
    // To look takes no lock; to open does.
    expect((await list(server))['other']).toBe('1048576 bytes');
    expect((await attempt(['nbdinfo', '--size', uriOf(server, 'other')])).code).toBe(1);
    const descriptors = await server.descriptorCount();
    const script = `
h = [connect(uri), connect(uri.replace('/one', '/alias'))]
h[0].pwrite(b'x' * 512, 0)
assert h[1].pread(512, 0) == b'x' * 512
assert h[0].can_multi_conn()
h[1].shutdown()
import subprocess
other = subprocess.run(arguments, capture_output=True, text=True)
assert other.returncode != 0 and 'locked' in other.stderr, other
h[0].pwrite(b'y' * 512, 512)
h[0].shutdown()
`;
    await python(uriOf(server, 'one'), script, [process.execPath, 'dist/main.js', 'file', one, '-U', '-']);
    await eventually('the file is closed', async () =>
      (await server.descriptorCount()) <= descriptors ? true : undefined,
    );
    await using alone = await startServer(['file', one]);
    expect(await python(alone.uri, 'print(connect().pread(1024, 0)[510:514])')).toBe("bytearray(b'xxyy')\n");
    expect(holder.uri).not.toBe(alone.uri);
  });

  test.each(CACHE_MODES)('a loss outlives its clients, for that file only (cache %s)', async (cache) => {
    await using directory = await temporaryDirectory();
    await mkdir(directory.file('images'));
    for (const name of ['bad', 'good']) await createImage(directory.file(`images/${name}`), MiB);
    await link(directory.file('images/bad'), directory.file('images/alias'));
    const through = faults(
      directory.file('log'),
      directory.file('images/bad'),
      'fdatasync:error=ENOSPC:when=1',
    );
    await using server = await startServer(['directory', directory.file('images'), '--cache', cache], {
      through,
    });
    const write = 'h = connect(); h.pwrite(bytearray(512), 0)';
    // Nobody asks for a flush: the file's own, at its close, meets the error.
    await python(uriOf(server, 'bad'), `${write}\nh.shutdown()`);
    await eventually('the loss is logged', () =>
      server.log.some(({ msg }) => msg?.startsWith('Acknowledged data was lost')) ? true : undefined,
    );
    for (const name of ['bad', 'alias', 'bad']) {
      await python(uriOf(server, name), `${write}\nfails(errno.EIO, h.flush)\nh.shutdown()`);
    }
    await python(uriOf(server, 'good'), `${write}\nh.flush()\nh.shutdown()`);
    server.signal('SIGTERM');
    expect((await server.ended()).code).toBe(1);
  });

  test('is not opened again after its close has told of a loss', async () => {
    await using directory = await temporaryDirectory();
    await createImage(directory.file('bad'), MiB);
    // The first close is that of the look at it. strace counts for each thread.
    const through = faults(directory.file('log'), directory.file('bad'), 'close:error=EIO:when=2');
    const environment = { UV_THREADPOOL_SIZE: '1' };
    await using server = await startServer(['directory', directory.path], { through, environment });
    await python(uriOf(server, 'bad'), 'h = connect(); h.pwrite(bytearray(512), 0); h.flush(); h.shutdown()');
    await eventually('the loss is logged', () =>
      server.log.some(({ operation }) => operation === 'close') ? true : undefined,
    );
    const { code, stderr } = await attempt(['nbdinfo', uriOf(server, 'bad')]);
    expect([code, stderr]).toEqual([1, expect.stringContaining('No such file or directory')]);
    server.signal('SIGTERM');
    expect((await server.ended()).code).toBe(1);
    expect(server.stderr).toContain('it is not served until restart');
  });

  test('with --cache none nothing of it stays in the page cache when the last client has left', async () => {
    await using directory = await temporaryDirectory();
    const image = directory.file('disk');
    await createFullImage(image, 8 * MiB);
    await using probe = await PageCacheProbe.open(image);
    await probe.evict();
    await using server = await startServer([
      'directory',
      directory.path,
      '--cache',
      'none',
      '--windows',
      '2',
    ]);
    // It leaves without a FLUSH.
    const script =
      'h = connect(); h.pwrite(bytes(range(1, 256)) * 257, 12345); h.pread(1048576, 4194304); h.shutdown()';
    await python(uriOf(server, 'disk'), script);
    await eventually('it is evicted', async () => ((await probe.residentBytes()) === 0 ? true : undefined));
  });
});
