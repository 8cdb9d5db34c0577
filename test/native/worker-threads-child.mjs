// Starts workers of this same file. The main thread's first argument names a scenario, the second a folder.
import assert from 'node:assert/strict';
import { closeSync, openSync, readdirSync } from 'node:fs';
import { createRequire } from 'node:module';
import { connect } from 'node:net';
import { join } from 'node:path';
import { setTimeout } from 'node:timers/promises';
import { connect as connectTls } from 'node:tls';
import { fileURLToPath } from 'node:url';
import { isMainThread, parentPort, threadId, Worker, workerData } from 'node:worker_threads';

const require = createRequire(import.meta.url);
const load = () => require('../../build/Release/nbd_serve.node');
const MiB = 1024 * 1024;

function start(job, folder) {
  return new Worker(fileURLToPath(import.meta.url), { workerData: { job, folder } });
}

function ended(worker) {
  return new Promise((resolve, reject) => {
    worker.once('error', reject);
    worker.once('exit', resolve);
  });
}

function said(worker) {
  return new Promise((resolve) => worker.once('message', resolve));
}

/** Returns after ten seconds in any case: what has not become true by then is for the caller to assert. */
async function until(condition) {
  for (let left = 1000; left > 0 && !condition(); left -= 1) await setTimeout(10);
}

function threadCount() {
  return readdirSync('/proc/self/task').length;
}

async function writeAndDrain(native, folder) {
  const fd = openSync(join(folder, `file-${threadId}`), 'w+');
  const windows = new native.WriteWindows(fd, 4, MiB);
  const data = Buffer.alloc(MiB / 4, threadId);
  for (let offset = 0; offset < 16 * MiB; offset += data.length) {
    const written = await new Promise((done) =>
      native.pwrite_async(fd, data, 0, data.length, offset, 0, done),
    );
    assert.equal(written, data.length);
    if (windows.add(offset, data.length)) {
      const result = await new Promise((done) => windows.advance(done));
      assert.equal(result, 0);
    }
  }
  assert.equal(await new Promise((done) => windows.drain(done)), 0);
  const counts = new Float64Array(5);
  assert.equal(await new Promise((done) => native.cachestat(fd, 0, 0, counts, done)), 0);
  assert.equal(counts[0], 0);
  // SEEK_HOLE: the file has none before its end.
  assert.equal(await new Promise((done) => native.lseek(fd, 0, 4, done)), 16 * MiB);
  closeSync(fd);
}

// More than the threads can take at once: some run, the rest is queued.
function flood(native, folder) {
  const fd = openSync(join(folder, `file-${threadId}`), 'w+');
  const windows = new native.WriteWindows(fd, 2, MiB / 4);
  for (let index = 0; index < 64; index += 1) {
    const data = Buffer.alloc(MiB / 4, index);
    native.pwrite_async(fd, data, 0, data.length, index * data.length, 0, () => {
      if (windows.add(index * data.length, data.length)) windows.advance(() => {});
    });
  }
  native.fdatasync(fd, () => {});
  windows.drain(() => {});
}

const jobs = {
  write: writeAndDrain,

  async flood(native, folder) {
    flood(native, folder);
    parentPort.postMessage('flooded');
  },

  async listen(native, folder) {
    for (let count = 0; count < 8; count += 1) {
      const fd = native.listen_unix(join(folder, `socket-${threadId}-${count}`), 0o600, 4);
      const listener = new native.Listener(fd, () => {});
      if (count % 2 === 1) listener.pause();
      if (count % 4 === 2) listener.close();
    }
    flood(native, folder);
    parentPort.postMessage('listening');
  },

  // One connection in the middle of its handshake, one that comes again and again for a byte of what TLS has left.
  async secure(native, folder) {
    const path = join(folder, `socket-${threadId}`);
    const context = new native.TlsContext(
      '',
      '',
      '',
      '',
      'ECDHE-PSK-CHACHA20-POLY1305',
      'TLS_AES_128_GCM_SHA256',
      false,
    );
    const psk = Buffer.alloc(16, 7);
    context.add_psk('alice', psk, 0, psk.length);
    const buffer = Buffer.alloc(16);
    let received = 0;
    new native.Listener(native.listen_unix(path, 0o600, 4), (fd) => {
      const onReceived = () => {
        received += 1;
        if (received === 10) parentPort.postMessage('secured');
      };
      const stream = new native.StreamSocket(fd, buffer, 0, buffer.length, onReceived, () => {});
      const onSecured = (failure) => {
        assert.equal(failure, '');
        stream.limit(1);
        stream.start();
      };
      assert.equal(stream.start_tls(context, onSecured), 0);
    });
    connect(path).on('error', () => {});
    const options = {
      path,
      pskCallback: () => ({ psk, identity: 'alice' }),
      checkServerIdentity: () => undefined,
    };
    const tls = connectTls(options, () => tls.write(Buffer.alloc(MiB)));
    tls.on('error', () => {});
  },

  // Inside the addon nearly always: the termination arrives in some call into it.
  async busy(native, folder) {
    const fd = openSync(join(folder, `file-${threadId}`), 'w+');
    const buffer = Buffer.alloc(16);
    const windows = new native.WriteWindows(fd, 2, MiB);
    parentPort.postMessage('busy');
    for (let count = 0; ; count += 1) {
      windows.add(0, 4096);
      windows.pending_bytes();
      native.pwritev2(fd, buffer, 0, 16, 0, 0);
      native.preadv2(fd, buffer, 0, 16, 0, 0);
      native.ofd_getlk(fd, 0, 0, 0);
      new native.WriteWindows(fd, 2, MiB).add(0, 1);
      if (count % 1000 === 0) {
        const path = join(folder, `socket-${threadId}-${count}`);
        new native.Listener(native.listen_unix(path, 0o600, 4), () => {}).close();
        windows.drain(() => {});
        await new Promise(setImmediate);
      }
      try {
        native.preadv2(fd, buffer, 0, 17, 0, 0);
      } catch {
        // Refused, as it should be.
      }
    }
  },

  async exitInDone(native, folder) {
    flood(native, folder);
    native.fdatasync(openSync(join(folder, 'other'), 'w'), () => process.exit(0));
  },
};

const scenarios = {
  async together(folder) {
    const native = load();
    const workers = [1, 2, 3, 4].map(() => ended(start('write', folder)));
    await writeAndDrain(native, folder);
    assert.deepEqual(await Promise.all(workers), [0, 0, 0, 0]);
  },

  // The main thread never loads it: each worker is the first to load and the last to leave.
  async alone(folder) {
    for (let round = 0; round < 10; round += 1) assert.equal(await ended(start('write', folder)), 0);
  },

  async terminated(folder) {
    const native = load();
    await writeAndDrain(native, folder);
    const before = threadCount();
    for (let round = 0; round < 15; round += 1) {
      const workers = [start('flood', folder), start('flood', folder)];
      await Promise.all(workers.map(said));
      await Promise.all(workers.map((worker) => worker.terminate()));
    }
    // Every thread of every pool has been joined. Linux wakes who joins before it takes the thread out of /proc.
    await until(() => threadCount() <= before);
    assert.equal(threadCount(), before);
    await writeAndDrain(native, folder);
  },

  async 'terminated-busy'(folder) {
    for (let round = 0; round < 20; round += 1) {
      const workers = [start('busy', folder), start('busy', folder)];
      await Promise.all(workers.map(said));
      await Promise.all(workers.map((worker) => worker.terminate()));
    }
  },

  async 'terminated-listening'(folder) {
    const before = readdirSync('/proc/self/fd').length;
    for (let round = 0; round < 10; round += 1) {
      const worker = start('listen', folder);
      await said(worker);
      await worker.terminate();
    }
    const sockets = readdirSync('/proc/self/fd').length - before;
    // Node closes the files that a worker opened through fs; the listeners are the addon's to close.
    assert.equal(sockets, 0);
  },

  async 'terminated-in-tls'(folder) {
    const before = readdirSync('/proc/self/fd').length;
    for (let round = 0; round < 10; round += 1) {
      const worker = start('secure', folder);
      await said(worker);
      await worker.terminate();
    }
    assert.equal(readdirSync('/proc/self/fd').length, before);
  },

  async 'exit-in-done'(folder) {
    for (let round = 0; round < 5; round += 1) assert.equal(await ended(start('exitInDone', folder)), 0);
  },

  // The process ends while workers have operations running.
  async 'main-exits'(folder) {
    const workers = [start('flood', folder), start('flood', folder)];
    await Promise.all(workers.map(said));
    process.stdout.write('main-exits done\n', () => process.exit(0));
    await new Promise(() => {});
  },
};

if (isMainThread) {
  const [scenario, folder] = process.argv.slice(2);
  await scenarios[scenario](folder);
  process.stdout.write(`${scenario} done\n`);
} else {
  await jobs[workerData.job](load(), workerData.folder);
}
