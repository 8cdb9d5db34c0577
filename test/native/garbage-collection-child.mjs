// Run with --expose-gc. The first argument names a scenario, the second a path of its own.
import assert from 'node:assert/strict';
import { closeSync, openSync } from 'node:fs';
import { createRequire } from 'node:module';
import net from 'node:net';

const native = createRequire(import.meta.url)('../../build/Release/nbd_serve.node');
const [scenario, path] = process.argv.slice(2);
const MiB = 1024 * 1024;

// Collects in several turns of the event loop: finalizers run between them.
async function collect(turns = 5) {
  for (let turn = 0; turn < turns; turn += 1) {
    globalThis.gc();
    await new Promise((resolve) => setImmediate(resolve));
  }
}

// Overwrites what the collector gave back.
function litter() {
  for (let count = 0; count < 50; count += 1) Buffer.allocUnsafeSlow(MiB).fill(0xdd);
}

const scenarios = {
  // Nobody but the operation knows the buffer and the callback.
  async buffers() {
    const fd = openSync(path, 'w+');
    let pending = 0;
    for (let index = 0; index < 64; index += 1) {
      pending += 1;
      native.pwrite_async(fd, Buffer.alloc(MiB, index + 1), 0, MiB, index * MiB, 0, (result) => {
        assert.equal(result, MiB);
        pending -= 1;
      });
    }
    while (pending > 0) {
      globalThis.gc();
      litter();
      await new Promise((resolve) => setImmediate(resolve));
    }
    const buffer = Buffer.alloc(MiB);
    for (let index = 0; index < 64; index += 1) {
      assert.equal(native.preadv2(fd, buffer, 0, MiB, index * MiB, 0), MiB);
      assert(buffer.every((byte) => byte === index + 1));
    }
    closeSync(fd);
  },

  async counts() {
    const fd = openSync(path, 'w+');
    let pending = 0;
    for (let index = 0; index < 1000; index += 1) {
      pending += 1;
      native.cachestat(fd, 0, 0, new Float64Array(5), () => {
        pending -= 1;
      });
      if (index % 100 === 0) globalThis.gc();
    }
    while (pending > 0) await collect(1);
    closeSync(fd);
  },

  // The WriteWindows object is dropped while its drain runs.
  async windows() {
    const fd = openSync(path, 'w+');
    const data = Buffer.alloc(MiB, 7);
    for (let round = 0; round < 20; round += 1) {
      await new Promise((resolve) => {
        const windows = new native.WriteWindows(fd, 8, MiB / 4);
        for (let offset = 0; offset < 16 * MiB; offset += MiB) {
          native.pwritev2(fd, data, 0, MiB, offset, 0);
          if (windows.add(offset, MiB)) windows.advance(() => {});
        }
        windows.drain((result) => {
          assert.equal(result, 0);
          resolve();
        });
        setImmediate(() => globalThis.gc());
      });
      await collect(2);
    }
    closeSync(fd);
  },

  // An open listener is not garbage although nobody holds it. A closed one is.
  async listener() {
    const accepted = new Promise((resolve) => {
      const listener = new native.Listener(native.listen_unix(path, 0o600, 16), (descriptor) => {
        closeSync(descriptor);
        listener.close();
        resolve();
      });
    });
    await collect();
    const client = net.connect(path).on('error', () => {});
    await accepted;
    client.destroy();
    await collect();

    let collected = 0;
    const registry = new FinalizationRegistry(() => {
      collected += 1;
    });
    // In a function of its own: a frame that goes on may hold the last one in a register.
    const openAndClose = (count) => {
      const listener = new native.Listener(native.listen_unix(`${path}${count}`, 0o600, 16), () => {});
      registry.register(listener, count);
      listener.close();
    };
    for (let count = 0; count < 10; count += 1) openAndClose(count);
    while (collected < 10) await collect(1);
  },

  async churn() {
    const fd = openSync(path, 'w+');
    for (let count = 0; count < 20_000; count += 1) new native.WriteWindows(fd, 8, MiB).add(count * 4096, 1);
    await collect();
    closeSync(fd);
  },
};

await scenarios[scenario]();
process.stdout.write(`${scenario} done\n`);
