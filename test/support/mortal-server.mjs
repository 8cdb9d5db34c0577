// A server of 1 MiB of zeros over two threads, on the Unix socket that is its argument: TRIM makes the thread that
// serves it throw, WRITE_ZEROES makes it exit. What the second one runs is this same module, by the plugin's `sharing`.
import { isMainThread } from 'node:worker_threads';

const INFO = {
  size: 1 << 20,
  isReadOnly: false,
  isRotational: false,
  canFlush: true,
  canFua: false,
  canTrim: true,
  canZero: true,
  canFastZero: false,
  canCache: false,
  canMultiConn: false,
  blockSize: { minimum: 1, preferred: 4096 },
  metaContexts: [],
};

const pending = () => new Promise(() => {});

const handle = {
  read(buffer, start, length) {
    buffer.fill(0, start, start + length);
  },
  write() {},
  flush() {},
  trim() {
    setImmediate(() => {
      throw new Error('This thread was told to die');
    });
    return pending();
  },
  zero() {
    setImmediate(() => process.exit(3));
    return pending();
  },
  close() {},
};

export function attachPlugin(data) {
  if (data === 'refuse') throw new Error('This thread does not like its data');
  return { info: INFO, open: () => handle, close: async () => {} };
}

if (isMainThread) {
  const { serve } = await import('../../dist/cli/serve.js');
  const [unix, data] = process.argv.slice(2);
  const options = {
    unix,
    allowPlaintext: false,
    tls: 'off',
    tlsVerifyPeer: false,
    exportName: '',
    description: '',
    readOnly: false,
    threads: 2,
    maxConnections: 10,
    handshakeTimeout: 60,
    onFlushError: 'sticky',
    busyPoll: 0,
    filter: [],
    logLevel: 'info',
    logFormat: 'json',
  };
  const sharing = { module: import.meta.url, data };
  const plugin = { info: INFO, sharing, open: () => handle, close: async () => {} };
  process.exit(
    await serve(options, async () => plugin, {}).catch((error) => {
      process.stderr.write(`${error.message}\n`);
      return 1;
    }),
  );
}
