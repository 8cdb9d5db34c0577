/** From an opened plugin to the exit code: what is announced, and the end in order. */
import { existsSync, rmSync } from 'node:fs';
import { dirname } from 'node:path';
import { setImmediate as nextTurn } from 'node:timers/promises';
import { expect, test, vi } from 'vitest';
import { type OpenPlugin, serve } from '../../src/cli/serve.ts';
import type { ServingOptions } from '../../src/cli/serving-options.ts';
import { native } from '../../src/native/binding.ts';
import { Client } from '../server/client.ts';
import { FakePlugin } from '../server/fake-plugin.ts';
import { eventually } from '../support/polling.ts';
import { temporaryDirectory } from '../support/temporary-directory.ts';
import { capture } from './captured-output.ts';

const OPTIONS: ServingOptions = {
  unix: undefined,
  port: undefined,
  bind: undefined,
  allowPlaintext: false,
  tls: 'off',
  tlsCertificates: undefined,
  tlsPsk: undefined,
  tlsVerifyPeer: false,
  exportName: '',
  description: '',
  readOnly: false,
  threads: 1,
  maxConnections: 10,
  handshakeTimeout: 60,
  exitLast: false,
  busyPoll: 50,
  logLevel: 'silent',
  logFormat: 'json',
  onFlushError: 'sticky',
  filter: [],
};

interface Served {
  readonly uri: string;
  readonly socketPath: string;
  readonly code: Promise<number>;
}

/** Serves until a signal; the signal is only told to this process's listeners, not sent. */
async function start(
  plugin: FakePlugin,
  options: Partial<ServingOptions>,
  opened: (onLoss: () => void) => void = () => {},
): Promise<Served> {
  const stdout = capture(process.stdout);
  const openPlugin: OpenPlugin = async ({ onLoss }) => {
    opened(onLoss);
    return plugin;
  };
  const code = serve({ ...OPTIONS, ...options }, openPlugin, {});
  // Awaited later; until then a rejection is no surprise.
  code.catch(() => {});
  const uri = await eventually('the URI is announced', () =>
    stdout.text.endsWith('\n') ? stdout.text : undefined,
  );
  expect(uri).toMatch(/^[^\n]+\n$/);
  const socketPath = new URL(uri).searchParams.get('socket') ?? '';
  return { uri: uri.trimEnd(), socketPath, code };
}

function stop(signal: 'SIGTERM' | 'SIGINT' = 'SIGTERM'): void {
  process.emit(signal, signal);
}

test.each(['SIGTERM', 'SIGINT'] as const)(
  'serves from the announced URI until %s, then exits 0',
  async (signal) => {
    await using directory = await temporaryDirectory();
    const plugin = new FakePlugin('immediate');
    const { uri, socketPath, code } = await start(plugin, {
      unix: directory.file('socket'),
      exportName: 'disk',
    });
    expect(uri).toBe(`nbd+unix:///disk?socket=${socketPath}`);
    const client = await Client.connect(socketPath);
    await client.open('disk');
    stop(signal);
    expect(await code).toBe(0);
    await client.ended;
    expect(plugin.closeCount).toBe(1);
    expect(existsSync(socketPath)).toBe(false);
  },
);

test('exits 1 when acknowledged data may be lost', async () => {
  await using directory = await temporaryDirectory();
  const plugin = new FakePlugin('immediate');
  plugin.beforeClose = () => {
    throw new Error('fdatasync failed');
  };
  const { socketPath, code } = await start(plugin, { unix: directory.file('socket') });
  stop();
  expect(await code).toBe(1);
  expect(existsSync(socketPath)).toBe(false);
});

test.each(['sticky', 'exit'] as const)(
  'a loss of data ends the server only if it is told so (%s)',
  async (onFlushError) => {
    await using directory = await temporaryDirectory();
    const plugin = new FakePlugin('immediate');
    plugin.beforeClose = () => {
      throw new Error('It was lost');
    };
    let lose = (): void => {};
    const { code } = await start(plugin, { unix: directory.file('socket'), onFlushError }, (onLoss) => {
      lose = onLoss;
    });
    lose();
    await nextTurn();
    await nextTurn();
    expect(plugin.closeCount).toBe(onFlushError === 'exit' ? 1 : 0);
    if (onFlushError === 'sticky') stop();
    expect(await code).toBe(1);
  },
);

test('a second signal ends it with 128 + its number, whatever the plugin waits for', async () => {
  await using directory = await temporaryDirectory();
  const signalListeners = (): number => process.listenerCount('SIGTERM') + process.listenerCount('SIGINT');
  const before = signalListeners();
  const plugin = new FakePlugin('immediate');
  plugin.beforeClose = () => new Promise<void>(() => {});
  const { socketPath, code } = await start(plugin, { unix: directory.file('socket') });
  expect(signalListeners()).toBe(before + 2);
  // Here it would take the tests with it.
  const exitNow = vi.spyOn(native, 'exit_now').mockImplementation(() => undefined as never);
  stop('SIGTERM');
  stop('SIGINT');
  expect(await code).toBe(130);
  expect(exitNow).toHaveBeenCalledExactlyOnceWith(130);
  exitNow.mockRestore();
  expect(existsSync(socketPath)).toBe(false);
  expect(signalListeners()).toBe(before);
});

test('closes the plugin when nothing can be listened on', async () => {
  await using directory = await temporaryDirectory();
  const plugin = new FakePlugin('immediate');
  const code = serve({ ...OPTIONS, unix: directory.path }, async () => plugin, {});
  await expect(code).rejects.toThrow('no socket');
  expect(plugin.closeCount).toBe(1);
});

test('refuses several threads for an export that knows only one, before anything listens', async () => {
  await using directory = await temporaryDirectory();
  const plugin = new FakePlugin('immediate');
  const code = serve({ ...OPTIONS, unix: directory.file('socket'), threads: 2 }, async () => plugin, {});
  await expect(code).rejects.toThrow('served by one thread only');
  expect(existsSync(directory.file('socket'))).toBe(false);
  expect(plugin.closeCount).toBe(1);
});

// systemd-tmpfiles removes what is old from /tmp, and the flush at the end matters more than a folder.
test('flushes and closes the plugin although its private folder has been cleaned away', async () => {
  await using directory = await temporaryDirectory();
  vi.stubEnv('TMPDIR', directory.path);
  const plugin = new FakePlugin('immediate');
  const { socketPath, code } = await start(plugin, { unix: '-' });
  vi.unstubAllEnvs();
  rmSync(dirname(socketPath), { recursive: true });
  stop();
  await code.catch(() => {});
  expect(plugin.closeCount).toBe(1);
});
