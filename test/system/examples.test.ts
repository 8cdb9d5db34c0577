/** The worked examples, in the real program, against real counterparts. */
import { randomBytes } from 'node:crypto';
import { readFile, writeFile } from 'node:fs/promises';
import { expect, test } from 'vitest';
import { run } from '../support/command.ts';
import { createFullImage, createImage, expectSameContent, noise } from '../support/image.ts';
import { python } from '../support/python.ts';
import { RangeServer } from '../support/range-server.ts';
import { expectRefusal, startServer } from '../support/server.ts';
import { MiB } from '../support/storage.ts';
import { callsIn, straceTo } from '../support/strace.ts';
import { temporaryDirectory } from '../support/temporary-directory.ts';

test("generated.ts has the contents of nbdkit's pattern, also beyond 4 GiB and where nothing is aligned", async () => {
  const size = 2 ** 33 + 5;
  await using server = await startServer(['plugin', 'examples/generated.ts', String(size)]);
  const script = `
import hashlib
h = connect()
assert h.get_size() == ${size}
hash = hashlib.sha256()
for offset, length in [(0, 4096), (4294967290, 30), (3, 1000001), (${size} - 4099, 4099), (7, 1)]:
    hash.update(h.pread(length, offset))
print(hash.hexdigest())`;
  await using directory = await temporaryDirectory();
  const socket = directory.file('nbdkit.sock');
  const pidFile = directory.file('nbdkit.pid');
  await run(['nbdkit', '-U', socket, '-P', pidFile, 'pattern', `size=${size}`]);
  try {
    expect(await python(server.uri, script)).toBe(await python(`nbd+unix:///?socket=${socket}`, script));
  } finally {
    process.kill(Number(await readFile(pidFile, 'utf8')), 'SIGTERM');
  }
});

test('encrypted.ts gives back what nbdcopy has put in, and a FLUSH or FUA reaches the file', async () => {
  await using directory = await temporaryDirectory();
  const [image, key, plain, copy, trace] = ['disk.img', 'key', 'plain', 'copy', 'strace'].map((name) =>
    directory.file(name),
  ) as [string, string, string, string, string];
  await createImage(image, 8 * MiB);
  await createFullImage(plain, 8 * MiB);
  await writeFile(key, randomBytes(64), { mode: 0o600 });
  {
    await using server = await startServer(['plugin', 'examples/encrypted.ts', image, key], {
      through: straceTo(trace, '-e', 'trace=fdatasync'),
    });
    const syncs = async () => (await callsIn(trace, ['fdatasync'])).length;
    await run(['nbdcopy', '--flush', plain, server.uri]);
    const before = await syncs();
    expect(before).toBeGreaterThan(0);
    await python(server.uri, 'h = connect()\nh.pwrite(h.pread(100, 50), 50)\nh.flush()');
    expect(await syncs()).toBe(before + 1);
    await python(server.uri, 'h = connect()\nh.pwrite(h.pread(100, 50), 50, nbd.CMD_FLAG_FUA)');
    expect(await syncs()).toBe(before + 2);
  }
  expect((await readFile(image)).includes((await readFile(plain)).subarray(0, 16))).toBe(false);
  await using server = await startServer(['plugin', 'examples/encrypted.ts', image, key, '--read-only']);
  await run(['nbdcopy', server.uri, copy]);
  await expectSameContent(plain, copy);
});

test('http-range.ts is what a web server has, although the server stumbles', async () => {
  await using directory = await temporaryDirectory();
  const [original, copy] = [directory.file('original'), directory.file('copy')];
  const content = noise(3 * MiB + 17, 3);
  await writeFile(original, content);
  await using web = await RangeServer.start(content);
  await using server = await startServer(['plugin', 'examples/http-range.ts', web.url]);
  web.faults.push('unavailable', undefined, 'truncate', undefined, 'reset');
  await run(['nbdcopy', '--request-size=65536', server.uri, copy]);
  await expectSameContent(original, copy);
  expect(web.faults).toEqual([]);
  expect(await run(['nbdinfo', server.uri])).toMatch(/description: http:\/\/127[\s\S]*is_read_only: true/);
});

test('the examples say in one line what they need', async () => {
  expect(await expectRefusal(['plugin', 'examples/encrypted.ts'])).toMatch(/Give a file and a key file/);
  expect(await expectRefusal(['plugin', 'examples/encrypted.ts', '/nowhere', '/nowhere'])).toMatch(
    /ENOENT.*nowhere/,
  );
  expect(await expectRefusal(['plugin', 'examples/generated.ts', 'many'])).toMatch(/not NaN/);
  expect(await expectRefusal(['plugin', 'examples/http-range.ts', 'http://127.0.0.1:1/', '1'])).toMatch(
    /fetch failed/,
  );
});
