/** What a service manager hands over and hears: inherited sockets and the notify socket. */
import { createServer } from 'node:net';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { native } from '../../src/native/binding.ts';
import { defer, EINVAL, ENAMETOOLONG, openForTest, result, run, temporaryFolder } from './support.ts';

const [AF_UNIX, AF_INET, AF_INET6] = [1, 2, 10];
const ENOENT = 2;
const EBADF = 9;
const ENOTSOCK = 88;
const ECONNREFUSED = 111;

/** A listening descriptor of Node's own, which is not one of the addon's. */
async function listening(where: object): Promise<number> {
  const server = createServer();
  defer(() => server.close());
  await new Promise<void>((resolve) => {
    server.listen(where, resolve);
  });
  const { _handle: handle } = server as unknown as { _handle: { fd: number } };
  return handle.fd;
}

test('listening stream sockets are adopted, with the address that they are bound to', async () => {
  const path = join(temporaryFolder(), 'ü');
  const unix = await listening({ path });
  expect([native.adopt_listener(unix), native.local_address(unix)]).toEqual([AF_UNIX, path]);
  const v4 = await listening({ host: '127.0.0.1', port: 0 });
  expect([native.adopt_listener(v4), native.local_address(v4)]).toEqual([AF_INET, '127.0.0.1']);
  const v6 = await listening({ host: '::1', port: 0 });
  expect([native.adopt_listener(v6), native.local_address(v6)]).toEqual([AF_INET6, '::1']);
  const abstract = await listening({ path: `\0nbd-serve-test-${process.pid}` });
  expect([native.adopt_listener(abstract), native.local_address(abstract)]).toEqual([AF_UNIX, '']);
  // 02000000 is O_CLOEXEC, 04000 O_NONBLOCK, 02 O_RDWR.
  expect(run('grep', 'flags', `/proc/${process.pid}/fdinfo/${unix}`)).toMatch(/flags:\t02004002\n/);
});

test('everything else is refused', async () => {
  const file = openForTest(join(temporaryFolder(), 'file'), 'w');
  expect(native.adopt_listener(file)).toBe(-ENOTSOCK);
  expect(native.local_address(file)).toBe(-ENOTSOCK);
  expect(native.adopt_listener(99_999)).toBe(-EBADF);
});

test('a notify socket that is not there, or cannot be, is an error', async () => {
  const folder = temporaryFolder();
  const notify = (path: string): Promise<number> => result((done) => native.notify(path, 'READY=1', done));
  expect(await notify(join(folder, 'missing'))).toBe(-ENOENT);
  expect(await notify(`@nbd-serve-test-nobody-${process.pid}`)).toBe(-ECONNREFUSED);
  expect(await notify('')).toBe(-EINVAL);
  expect(await notify(`/${'x'.repeat(107)}`)).toBe(-ENAMETOOLONG);
});
