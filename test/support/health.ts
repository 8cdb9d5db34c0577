/** Whether a server is as well as it was before somebody treated it badly. */
import { expect } from 'vitest';
import { run } from './command.ts';
import { eventually } from './polling.ts';
import { python } from './python.ts';
import type { NbdServer } from './server.ts';

/**
 * The number of descriptors of a server that has served somebody and is idle again. With more than one thread it must have
 * been told `--threads`: one that starts behind the server opens files for a moment.
 */
export async function idleDescriptorCount(server: NbdServer): Promise<number> {
  const fresh = await server.descriptorCount();
  await run(['nbdinfo', '--size', server.uri]);
  // Two at a time: libuv keeps a descriptor in reserve for each thread, from its first connection on, and with `--cache none` a
  // thread has one for kernel AIO from its first read of whole blocks past the cache on.
  await python(
    server.uri,
    'h, other = connect(), connect(); h.pwrite(bytearray(512), 8 << 20); h.pread(512, 0); h.pread(4096, 9 << 20); other.pread(4096, 9 << 20); h.shutdown()',
  );
  // The server notices the end of a connection a moment later than its client.
  let count = await server.descriptorCount();
  await eventually('the descriptor count stays the same', async () => {
    const previous = count;
    count = await server.descriptorCount();
    return count === previous ? count : undefined;
  });
  expect(count).toBeLessThanOrEqual(fresh + 16);
  return count;
}

export async function expectDescriptorCount(server: NbdServer, count: number): Promise<void> {
  let last = -1;
  await eventually(`${count} descriptors are open again`, async () => {
    last = await server.descriptorCount();
    return last <= count ? true : undefined;
  }).catch((error: unknown) => {
    throw new Error(`${String(error)}; there are ${last}`);
  });
}

export async function expectGoodService(server: NbdServer): Promise<void> {
  await python(
    server.uri,
    `
h = connect()
block = bytearray(os.urandom(100000))
h.pwrite(block, 10 << 20)
h.flush()
assert h.pread(100000, 10 << 20) == block
h.shutdown()
`,
  );
}
