/** What the HTTP side answers, over real sockets; no NBD server behind it. */
import { once } from 'node:events';
import { get, request } from 'node:http';
import { connect, type Socket } from 'node:net';
import { text } from 'node:stream/consumers';
import { afterEach, expect, test, vi } from 'vitest';
import { METRICS_CONNECTION_COUNT_MAX } from '../../src/limits.ts';
import type { Status } from '../../src/metrics/status.ts';
import { StatusServer } from '../../src/metrics/status-server.ts';
import { Counters } from '../../src/server/counters.ts';
import { FakeLog } from '../server/fake-log.ts';
import { FakePlugin } from '../server/fake-plugin.ts';
import { eventually } from '../support/polling.ts';

afterEach(() => {
  vi.useRealTimers();
});

class Rig implements AsyncDisposable {
  readonly log = new FakeLog();
  readonly server: StatusServer;
  readonly counters = new Counters(true);

  private constructor(server: StatusServer) {
    this.server = server;
  }

  static async create(isShowing = true, isLoopback = true): Promise<Rig> {
    const rig = new Rig(
      await StatusServer.listen({ address: '127.0.0.1', port: 0, isLoopback }, new FakeLog()),
    );
    if (isShowing) {
      rig.server.show({
        counterMemories: () => [rig.counters.memory],
        exports: () => [{ name: 'disk', description: '', plugin: new FakePlugin() }],
      });
    }
    return rig;
  }

  get port(): number {
    return Number(new URL(this.server.url).port);
  }

  async ask(
    path: string,
    method = 'GET',
    host?: string,
  ): Promise<{ status: number; headers: Headers; body: string }> {
    const options = { method, agent: false, ...(host === undefined ? {} : { headers: { Host: host } }) };
    const sent = request(new URL(path, this.server.url), options).end();
    const [response] = (await once(sent, 'response')) as [import('node:http').IncomingMessage];
    const headers = new Headers(
      Object.entries(response.headers).map(([name, value]) => [name, String(value)] as [string, string]),
    );
    return { status: response.statusCode ?? 0, headers, body: await text(response) };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.server.close();
  }
}

/** A reset counts as a close. */
function closeOf(socket: Socket): Promise<void> {
  return new Promise((resolve) => {
    socket.on('error', () => {}).once('close', () => resolve());
  });
}

test.each([
  ['/', 'text/html; charset=utf-8', '<!doctype html>'],
  ['/metrics', 'text/plain; version=0.0.4; charset=utf-8', '# TYPE nbd_serve_requests_total counter'],
  ['/status.json', 'application/json', '"latencyBounds":['],
  ['/uplot.js', 'text/javascript; charset=utf-8', 'uPlot'],
  ['/uplot.css', 'text/css; charset=utf-8', '.uplot'],
  ['/page/style.css', 'text/css; charset=utf-8', '--page'],
  ['/page/icon.svg', 'image/svg+xml', '<svg'],
])('%s is %s, and a browser may do nothing with it but what it is for', async (path, type, content) => {
  await using rig = await Rig.create();
  const { status, headers, body } = await rig.ask(path);
  expect(status).toBe(200);
  expect(headers.get('content-type')).toBe(type);
  expect(headers.get('content-security-policy')).toMatch(/^default-src 'none'; script-src 'self'; /);
  expect(headers.get('x-content-type-options')).toBe('nosniff');
  expect(headers.get('access-control-allow-origin')).toBeNull();
  expect(body).toContain(content);
  const head = await rig.ask(path, 'HEAD');
  expect(head).toMatchObject({ status: 200, body: '' });
  expect(head.headers.get('content-type')).toBe(type);
});

test.each(['POST', 'PUT', 'DELETE', 'OPTIONS'])('%s is refused', async (method) => {
  await using rig = await Rig.create();
  const { status, headers } = await rig.ask('/metrics', method);
  expect(status).toBe(405);
  expect(headers.get('allow')).toBe('GET, HEAD');
});

test.each(['/nothing', '/page/', '/page/html.js', '/../package.json', '/%2e%2e/package.json', '//metrics'])(
  '%s is not there',
  async (path) => {
    await using rig = await Rig.create();
    const sent = get({ host: '127.0.0.1', port: rig.port, path, agent: false });
    const [response] = (await once(sent, 'response')) as [import('node:http').IncomingMessage];
    expect(response.statusCode).toBe(404);
    response.resume();
  },
);

test('a query is ignored', async () => {
  await using rig = await Rig.create();
  expect((await rig.ask('/metrics?name[]=x')).status).toBe(200);
});

test.each(['localhost', 'LOCALHOST:1', '127.0.0.1', '127.0.0.2:80', '[::1]:9100', '10.1.2.3'])(
  'the host %s is no trick of another site',
  async (host) => {
    await using rig = await Rig.create();
    expect((await rig.ask('/metrics', 'GET', host)).status).toBe(200);
  },
);

test.each(['example.com', 'localhost.example.com:9100', '127.0.0.1.example.com', '[::1', 'a@localhost'])(
  'the host "%s" could be one, on a loopback address',
  async (host) => {
    await using loopback = await Rig.create();
    expect((await loopback.ask('/metrics', 'GET', host)).status).toBe(403);
    await using open = await Rig.create(true, false);
    expect((await open.ask('/metrics', 'GET', host)).status).toBe(200);
  },
);

test('before there is something to show, it says so', async () => {
  await using rig = await Rig.create(false);
  expect((await rig.ask('/metrics')).status).toBe(503);
  expect((await rig.ask('/')).status).toBe(503);
  expect((await rig.ask('/nothing')).status).toBe(404);
});

test('who asks within a second gets the same numbers', async () => {
  await using rig = await Rig.create();
  const first = JSON.parse((await rig.ask('/status.json')).body) as Status;
  rig.counters.connectionOpened();
  const answers = await Promise.all(Array.from({ length: 10 }, () => rig.ask('/status.json')));
  const times = new Set(answers.map(({ body }) => (JSON.parse(body) as Status).time));
  // Two on a machine so busy that the second was over.
  expect(times.size).toBeLessThanOrEqual(2);
  const later = await eventually('a newer status', async () => {
    const status = JSON.parse((await rig.ask('/status.json')).body) as Status;
    return status.time > first.time ? status : undefined;
  });
  expect(later.connections.opened).toBe(1);
});

test('connections beyond the limit are closed, and there is room again afterwards', async () => {
  await using rig = await Rig.create();
  const sockets = Array.from({ length: METRICS_CONNECTION_COUNT_MAX }, () => connect(rig.port, '127.0.0.1'));
  await Promise.all(sockets.map((socket) => once(socket, 'connect')));
  const extra = connect(rig.port, '127.0.0.1').resume();
  await closeOf(extra);
  for (const socket of sockets) socket.destroy();
  await eventually('an answer', async () =>
    (await rig.ask('/metrics').catch(() => undefined))?.status === 200 ? true : undefined,
  );
});

test('a request that trickles in is given up', async () => {
  vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout'] });
  await using rig = await Rig.create();
  const socket = connect(rig.port, '127.0.0.1').resume();
  const closed = closeOf(socket);
  await once(socket, 'connect');
  socket.write('GET / HTTP/1.1\r\nHost: localhost\r\nX-Slow: ');
  await eventually('the server has its deadline', () => {
    vi.advanceTimersByTime(16_000);
    return socket.destroyed ? true : undefined;
  });
  await closed;
});

test('a port in use is an error with its code', async () => {
  await using rig = await Rig.create();
  await expect(
    StatusServer.listen({ address: '127.0.0.1', port: rig.port, isLoopback: true }, new FakeLog()),
  ).rejects.toMatchObject({ code: 'EADDRINUSE' });
});
