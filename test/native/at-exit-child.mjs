// Ends in the way that the first argument names; the second is a path of its own.
import { constants, openSync, writeSync } from 'node:fs';
import { createRequire } from 'node:module';

const native = createRequire(import.meta.url)('../../build/Release/nbd_serve.node');
const [scenario, path] = process.argv.slice(2);
const MiB = 1024 * 1024;
const fd = openSync(path, 'w+');

function say(text) {
  process.stdout.write(`${text}\n`);
}

function flood(done) {
  for (let index = 0; index < 100; index += 1) {
    native.pwrite_async(fd, Buffer.alloc(MiB, index), 0, MiB, index * MiB, 0, done);
  }
}

function nothing() {}

/** As many reads as the queue holds, of a file of 1 MiB. */
function floodOfQueuedReads(done) {
  writeSync(fd, Buffer.alloc(MiB, 1));
  const reader = new native.DirectFile(fd, openSync(path, constants.O_RDONLY | constants.O_DIRECT));
  native.fdatasync(fd, () => {
    for (let index = 0; index < 256; index += 1) {
      reader.read_queued(Buffer.alloc(4096), 0, 4096, index * 4096, done);
    }
  });
}

const scenarios = {
  'exit-pending'() {
    flood(nothing);
    native.fdatasync(fd, nothing);
    process.stdout.write('exiting\n', () => process.exit(0));
  },

  natural() {
    const windows = new native.WriteWindows(fd, 8, MiB);
    let pending = 100;
    flood(() => {
      windows.add((100 - pending) * MiB, MiB);
      pending -= 1;
      if (pending === 0) windows.drain((result) => say(`drained ${result}`));
    });
  },

  'queued-exit-pending'() {
    floodOfQueuedReads(nothing);
    native.fdatasync(fd, () => process.stdout.write('exiting\n', () => process.exit(0)));
  },

  'queued-natural'() {
    let count = 0;
    floodOfQueuedReads((result) => {
      count += result === 4096 ? 1 : 0;
      if (count === 256) say('all read');
    });
  },

  'queued-exit-in-done'() {
    floodOfQueuedReads(() => {
      say('first');
      process.exit(0);
    });
  },

  // The pool's threads are idle and must not keep the process.
  idle() {
    native.fdatasync(fd, () => native.fdatasync(fd, () => say('idle')));
  },

  'never-used': nothing,

  'exit-in-done'() {
    let first = true;
    flood(() => {
      if (!first) say('called after process.exit');
      first = false;
      say('first');
      process.exit(0);
    });
  },

  // Each callback's ticks and microtasks come before the next callback, also within one batch.
  ticks() {
    native.set_pool_size(1);
    const events = [];
    for (let index = 0; index < 3; index += 1) {
      native.fdatasync(fd, () => {
        events.push(`done ${index}`);
        process.nextTick(() => events.push(`tick ${index}`));
        queueMicrotask(() => events.push(`microtask ${index}`));
      });
    }
    process.on('exit', () => say(events.join(', ')));
  },

  thrown() {
    let completed = 0;
    let uncaught = 0;
    process.on('uncaughtException', (error) => {
      if (error.message !== 'Thrown by done') throw error;
      uncaught += 1;
    });
    for (let index = 0; index < 20; index += 1) {
      native.fdatasync(fd, () => {
        completed += 1;
        if (index % 4 === 0) throw new Error('Thrown by done');
      });
    }
    process.on('exit', () => say(`uncaught ${uncaught}, completed ${completed}`));
  },

  'thrown-null'() {
    process.on('uncaughtException', (error) => say(`uncaught ${error}`));
    native.fdatasync(fd, () => {
      throw null;
    });
  },

  unhandled() {
    native.fdatasync(fd, () => {
      throw new Error('Thrown by done');
    });
    flood(() => {});
  },

  'one-thread'() {
    native.set_pool_size(1);
    const order = [];
    for (let index = 0; index < 500; index += 1) native.fdatasync(fd, () => order.push(index));
    process.on('exit', () => say(order.every((value, index) => value === index) ? 'in order' : order.join()));
  },

  resized() {
    let pending = 0;
    for (const count of [16, 1, 256, 2, 64, 1, 8]) {
      native.set_pool_size(count);
      pending += 100;
      flood(() => {
        pending -= 1;
        if (pending % 50 === 0) native.set_pool_size(1 + (pending % 7));
        if (pending === 0) say('resized');
      });
    }
  },

  // What an exit listener starts can no longer finish, and must not crash either.
  'exit-event'() {
    process.on('exit', () => {
      flood(nothing);
      say('exit event');
    });
  },
};

scenarios[scenario]();
