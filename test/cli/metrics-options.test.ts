import { createServer } from 'node:net';
import { InvalidArgumentError } from '@commander-js/extra-typings';
import { expect, test } from 'vitest';
import { metricsListen, openStatusServer } from '../../src/cli/metrics-options.ts';
import { FakeLog } from '../server/fake-log.ts';

test.each([
  ['9100', '127.0.0.1', 9100],
  ['0', '127.0.0.1', 0],
  ['0.0.0.0:9100', '0.0.0.0', 9100],
  ['[::1]:65535', '::1', 65_535],
  ['[::]:1', '::', 1],
  ['localhost:9100', 'localhost', 9100],
  ['metrics.example.com:9100', 'metrics.example.com', 9100],
])('%s is %s and %d', (text, host, port) => {
  expect(metricsListen(text)).toEqual({ host, port });
});

test.each([
  '',
  ':9100',
  'localhost',
  '65536',
  '-1',
  '1.5',
  '9100x',
  ' 9100',
  '::1:9100',
  '[::1]',
  '[::1]9100',
  '[localhost]:9100',
  '[]:9100',
  'http://localhost:9100',
  'localhost:',
  'localhost:999999',
])('"%s" is refused', (text) => {
  expect(() => metricsListen(text)).toThrow(InvalidArgumentError);
});

test('without the option nothing listens', async () => {
  expect(await openStatusServer(undefined, false, new FakeLog())).toBeUndefined();
});

test.each(['0.0.0.0', '::', '192.0.2.1'])('%s is refused unless plaintext is allowed', async (host) => {
  const log = new FakeLog();
  await expect(openStatusServer({ host, port: 0 }, false, log)).rejects.toThrow(
    `Refusing to serve metrics in plaintext on ${host}, which is not a loopback address (--allow-plaintext dares)`,
  );
  expect(log.lines).toEqual([]);
});

test('a loopback address needs no leave', async () => {
  const log = new FakeLog();
  const server = await openStatusServer({ host: 'localhost', port: 0 }, false, log);
  await server?.close();
  expect(server?.url).toMatch(/^http:\/\/(127\.0\.0\.1|\[::1\]):\d+\/$/);
  expect(log.at('warn')).toEqual([]);
});

test('where everybody can reach it, the log warns', async () => {
  const log = new FakeLog();
  const server = await openStatusServer({ host: '0.0.0.0', port: 0 }, true, log);
  await server?.close();
  expect(log.lines).toEqual([
    {
      level: 'warn',
      fields: { url: server?.url },
      message: 'Metrics and the status page are served to whoever reaches this address',
    },
  ]);
});

test.each([
  ['192.0.2.1', 9100, 'Cannot serve metrics on 192.0.2.1 port 9100: this machine has no such address'],
  ['no.such.host.invalid', 9100, /^Cannot serve metrics on no\.such\.host\.invalid port 9100: [^\n]+$/],
])('%s is an error of one line', async (host, port, message) => {
  await expect(openStatusServer({ host, port }, true, new FakeLog())).rejects.toThrow(message);
});

test('so is a port that is in use', async () => {
  const other = createServer();
  await new Promise<void>((resolve) => {
    other.listen(0, '127.0.0.1', resolve);
  });
  const { port } = other.address() as { port: number };
  try {
    await expect(openStatusServer({ host: '127.0.0.1', port }, false, new FakeLog())).rejects.toThrow(
      `Cannot serve metrics on 127.0.0.1 port ${port}: the port is in use (--metrics 0 picks a free one)`,
    );
  } finally {
    other.close();
  }
});
