/** Requests that wait, and whoever must not wait for them. */
import { expect, test } from 'vitest';
import { BufferPlugin } from './buffer-plugin.ts';
import { filtered } from './stack.ts';

test.each(['delay:write=1m', 'rate:1', 'rate:connection-rate=1'])(
  'the end of the server lets them go on: %s',
  async (text) => {
    const stopping = new AbortController();
    const inner = new BufferPlugin(Buffer.alloc(100_000));
    const plugin = await filtered(inner, [text], { stopping: stopping.signal });
    const handle = await plugin.open();
    const writes = Array.from({ length: 30 }, (_, index) =>
      handle.write(Buffer.alloc(1000, 7), 0, 1000, index * 1000, false),
    );
    expect(inner.calls).toEqual([]);
    stopping.abort();
    await Promise.all(writes);
    await handle.write(Buffer.alloc(1000, 7), 0, 1000, 30_000, false);
    expect(inner.bytes.subarray(0, 31_000).every((byte) => byte === 7)).toBe(true);
    await handle.close();
    await plugin.close();
  },
);
