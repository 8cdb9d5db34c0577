/** `nbd-serve plugin`: modules of authors, good and bad ones, in the real program. */
import { mkdir, writeFile } from 'node:fs/promises';
import { dirname } from 'node:path';
import { describe, expect, test } from 'vitest';
import { attempt, run } from '../support/command.ts';
import { createFullImage, expectSameContent } from '../support/image.ts';
import { eventually } from '../support/polling.ts';
import { python } from '../support/python.ts';
import { expectRefusal, LOGGED, PROGRAM, startServer } from '../support/server.ts';
import { MiB } from '../support/storage.ts';
import { type TemporaryDirectory, temporaryDirectory } from '../support/temporary-directory.ts';

const ERROR = 50;

async function moduleFile(directory: TemporaryDirectory, name: string, text: string): Promise<string> {
  const path = directory.file(name);
  await mkdir(dirname(path), { recursive: true });
  await writeFile(path, text);
  return path;
}

describe.each(['device.ts', 'device.mts', 'device.mjs', 'device.js'])('%s', (name) => {
  test('is served, wherever it lies, and takes a copy', async () => {
    await using directory = await temporaryDirectory();
    const type = name.endsWith('ts') ? ': number' : '';
    const module = await moduleFile(
      directory,
      name,
      `import { defineExport } from 'nbd-serve';
const size${type} = 8 * 1024 * 1024;
const disk = new Uint8Array(size);
console.log('standard output belongs to the URI');
export default defineExport({
  size,
  description: 'a device of mine',
  read: (offset, length) => disk.subarray(offset, offset + length),
  write: (offset, data) => disk.set(data, offset),
});
`,
    );
    const [image, copy] = [directory.file('image'), directory.file('copy')];
    await createFullImage(image, 8 * MiB);
    await using server = await startServer(['plugin', module]);
    await run(['nbdcopy', image, server.uri]);
    await run(['nbdcopy', server.uri, copy]);
    await expectSameContent(image, copy);
    expect(await run(['nbdinfo', server.uri])).toContain('description: a device of mine');
    // stop() reads the log, every line of which must be JSON.
    server.signal('SIGTERM');
    expect(await server.ended()).toEqual({ code: 0, signal: null });
    expect(server.stderr.split('\n')[0]).toBe('standard output belongs to the URI');
  });
});

test('a function gets the arguments, also those that look like options, and makes the device', async () => {
  await using directory = await temporaryDirectory();
  const module = await moduleFile(
    directory,
    'device.ts',
    `import type { PluginModuleContext } from 'nbd-serve';
export default async (args: readonly string[], { isReadOnly, log }: PluginModuleContext) => {
  log.info({ args }, 'Opening');
  const text = Buffer.from(JSON.stringify({ args, isReadOnly }));
  return { size: text.length, read: (offset: number, length: number) => text.subarray(offset, offset + length) };
};
`,
  );
  const said = 'h = connect()\nprint(h.pread(h.get_size(), 0).decode())';
  {
    await using server = await startServer([
      'plugin',
      module,
      'one',
      '-U',
      directory.file('nbd.sock'),
      '--read-only',
      'two',
      '-e',
      'disk',
      '--',
      '-x',
      '--port=7',
    ]);
    expect(JSON.parse(await python(server.uri, said))).toEqual({
      args: ['one', 'two', '-x', '--port=7'],
      isReadOnly: true,
    });
    await server.stop();
    expect(server.log.find(({ msg }) => msg === 'Opening')).toMatchObject({
      args: ['one', 'two', '-x', '--port=7'],
    });
  }
  await using server = await startServer(['plugin', module, '--description', 'mine']);
  expect(JSON.parse(await python(server.uri, said))).toEqual({ args: [], isReadOnly: false });
  expect(await run(['nbdinfo', server.uri])).toContain('description: mine');
});

test('a plugin that throws gives an error and one log line; the server lives on', async () => {
  await using directory = await temporaryDirectory();
  const module = await moduleFile(
    directory,
    'device.mjs',
    `export default {
  size: 1048576,
  read: (offset, length) => {
    if (offset === 4096) throw new TypeError('Cannot read\\nthis');
    return new Uint8Array(offset === 8192 ? 1 : length);
  },
  write: async (offset) => { throw offset === 0 ? Object.assign(new Error('full'), { code: 'ENOSPC' }) : 'a string'; },
};
`,
  );
  await using server = await startServer(['plugin', module]);
  await python(
    server.uri,
    `
h = connect()
fails(errno.EIO, h.pread, 512, 4096)
fails(errno.EIO, h.pread, 512, 8192)
fails(errno.ENOSPC, h.pwrite, b"x", 0)
fails(errno.EIO, h.pwrite, b"x", 1)
assert h.pread(512, 0) == bytes(512)`,
  );
  await expect
    .poll(() => server.log.filter(({ level }) => level === ERROR), LOGGED)
    .toMatchObject([
      { operation: 'read', offset: 4096, length: 512, errno: 'EIO', err: { message: 'Cannot read\nthis' } },
      { operation: 'read', offset: 8192, err: { message: 'read must return 512 bytes, and returned 1' } },
      { operation: 'write', offset: 0, errno: 'ENOSPC', err: { message: 'full' } },
      { operation: 'write', offset: 1, errno: 'EIO', err: { message: "write threw 'a string'" } },
    ]);
});

test.each([
  ['a promise that nobody awaits', 'Promise.reject(new Error("lost"))'],
  ['a timer', 'setTimeout(() => { throw new Error("lost"); })'],
])('%s that fails does not end the server, but no flush succeeds any more', async (_name, stray) => {
  await using directory = await temporaryDirectory();
  const module = await moduleFile(
    directory,
    'device.mjs',
    `export default {
  size: 1048576,
  read: (offset, length) => new Uint8Array(length),
  write: () => { ${stray}; },
  flush: () => {},
};
`,
  );
  await using server = await startServer(['plugin', module]);
  await python(server.uri, 'h = connect()\nh.flush()\nh.pwrite(b"x", 0)');
  await eventually('the failure is logged', () => server.log.find(({ level }) => level === ERROR));
  expect(server.log.filter(({ level }) => level === ERROR)[0]).toMatchObject({
    msg: 'The plugin failed outside of a request; acknowledged data may be lost',
    err: { message: 'lost' },
  });
  await python(server.uri, 'h = connect()\nh.pread(512, 0)\nfails(errno.EIO, h.flush)');
  server.signal('SIGTERM');
  expect(await server.ended()).toEqual({ code: 1, signal: null });
});

describe('is refused in one line, before anything listens:', () => {
  test.each<[string, string, string, RegExp]>([
    [
      'a syntax error',
      'device.js',
      'export default {\n  size: 5,\n  read( {\n};\n',
      /device\.js": Unexpected token ';' \(.*device\.js:4\)$/,
    ],
    [
      'a syntax error in TypeScript',
      'device.ts',
      'export default {\n  size: 5,\n  read( {\n};\n',
      /device\.ts": .* \(.*device\.ts:4\)$/,
    ],
    [
      'a package that is not there',
      'device.ts',
      "\nimport 'nowhere';\n",
      /Cannot find (module|package) 'nowhere'/,
    ],
    [
      'a name that is not there',
      'device.mjs',
      '\nimport { nope } from "node:fs";\nexport default nope;',
      /"node:fs"|'node:fs' does not provide an export named 'nope' \(.*device\.mjs:2\)$/,
    ],
    [
      'an error at the top',
      'device.ts',
      'const a: number = 1;\nthrow new Error(`no\\ndisk`);',
      /device\.ts": no disk \(.*device\.ts:2\)$/,
    ],
    [
      'a function that throws',
      'device.mjs',
      'export default () => {\n  throw new Error("no disk");\n};',
      /device\.mjs": no disk \(.*device\.mjs:2\)$/,
    ],
    [
      'a function that rejects without an error',
      'device.mjs',
      'export default async () => { throw "x"; };',
      /device\.mjs": it threw 'x'$/,
    ],
    [
      'a promise that never settles',
      'device.mjs',
      'export default () => new Promise(() => {});',
      /device\.mjs": its promise never settles$/,
    ],
    [
      'a promise that nobody awaits',
      'device.mjs',
      'export default async () => {\n  Promise.reject(new Error("lost"));\n  await new Promise(() => {});\n};',
      /device\.mjs": lost \(.*device\.mjs:2\)$/,
    ],
    [
      'no default export',
      'device.mjs',
      'export const size = 1;',
      /device\.mjs": it has no default export \(export default defineExport/,
    ],
    [
      'a required method that is missing',
      'device.mjs',
      'export default { size: 512 };',
      /An export needs a method read\(offset, length\), and has undefined$/,
    ],
    [
      'a wrong type',
      'device.mjs',
      'export default { size: 512, read() {}, write: 5 };',
      /"write" of an export is a method or left out, not 5$/,
    ],
    [
      'a function that makes nothing',
      'device.mjs',
      'export default () => {};',
      /An export is an object with size and read, not undefined$/,
    ],
    [
      'a definition that defineExport refuses',
      'device.mjs',
      'import { defineExport } from "nbd-serve";\nexport default defineExport({ size: -1, read() {} });',
      /a whole number from 0 to 9007199254740991, not -1 \(.*device\.mjs:2\)$/,
    ],
  ])('%s', async (_name, name, text, message) => {
    await using directory = await temporaryDirectory();
    const module = await moduleFile(directory, name, text);
    expect(await expectRefusal(['plugin', module, '-U', directory.file('sock')])).toMatch(message);
  });

  test('a module that is not there, no file, and no function for its arguments', async () => {
    await using directory = await temporaryDirectory();
    const module = await moduleFile(directory, 'device.mjs', 'export default { size: 0, read() {} };');
    expect(await expectRefusal(['plugin', directory.file('gone.ts')])).toMatch(
      /gone\.ts": there is no such file$/,
    );
    expect(await expectRefusal(['plugin', directory.path])).toMatch(/it is no file$/);
    expect(await expectRefusal(['plugin', module, 'word'])).toMatch(
      /takes no arguments: its default export is no function$/,
    );
    expect(await expectRefusal(['plugin', module, '--zzzz'])).toMatch(/unknown option '--zzzz'/);
    expect(await expectRefusal(['plugin'])).toMatch(/missing required argument 'module'/);
    const { stdout } = await attempt([...PROGRAM, 'plugin', '--help']);
    expect(stdout).toContain('nbd-serve plugin [options] <module> [args...]');
  });
});
