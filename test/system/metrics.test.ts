/** `--metrics` and the log lines of connections, after real requests, read by Prometheus' own checker and by curl. */
import { stat, writeFile } from 'node:fs/promises';
import { createServer } from 'node:net';
import { expect, test } from 'vitest';
import { run } from '../support/command.ts';
import { overpromisedFileSystem } from '../support/failing-storage.ts';
import { createFullImage, createImage, evict, residentPages } from '../support/image.ts';
import { promtoolComplaints, scrape, scrapeUntil, statusUrl } from '../support/metrics.ts';
import { eventually } from '../support/polling.ts';
import { python } from '../support/python.ts';
import { expectRefusal, type LogLine, startServer } from '../support/server.ts';
import { MiB } from '../support/storage.ts';
import { temporaryDirectory } from '../support/temporary-directory.ts';

/** Odd sizes, every command, and errors of both kinds: refused by the rules. */
const REQUESTS = `
h = connect(strict=0, setup=lambda h: h.add_meta_context(nbd.CONTEXT_BASE_ALLOCATION))
h.pwrite(bytearray(b'x' * 4097), 511)
h.pwrite(bytearray(b'y' * (3 << 20)), 4 << 20)
h.pwrite(bytearray(b'z'), (16 << 20) - 1, nbd.CMD_FLAG_FUA)
h.pread(513, 1)
h.pread(1 << 20, 4 << 20)
h.trim(8192, 8192)
h.zero(12345, 4096)
h.flush()
h.flush()
status(h, 1 << 20, 0)
fails(errno.ENOSPC, h.pwrite, bytearray(2), (16 << 20) - 1)
fails(errno.EINVAL, h.pread, 2, (16 << 20) - 1)
h.shutdown()
`;

const WRITTEN_BYTES = 4097 + 3 * MiB + 1;
const READ_BYTES = 513 + MiB;

function closeLine(log: readonly LogLine[]): LogLine | undefined {
  return log.find(({ msg }) => msg === 'Connection closed');
}

test('curl gets the numbers, the page and nothing else', async () => {
  await using directory = await temporaryDirectory();
  const image = directory.file('image');
  await createImage(image, MiB);
  await using server = await startServer(['file', image, '--metrics', '0']);
  const url = await statusUrl(server);
  const curl = (...words: string[]): Promise<string> =>
    run(['curl', '--silent', '--show-error', '--noproxy', '*', ...words]);
  expect(await curl(`${url}metrics`)).toContain(`nbd_serve_export_size_bytes{export=""} ${MiB}\n`);
  expect(await curl('--head', `${url}metrics`)).toMatch(
    /^HTTP\/1\.1 200 .*content-type: text\/plain; version=0\.0\.4/is,
  );
  expect(await curl(url)).toMatch(/^<!doctype html>/i);
  const status = ['--output', '/dev/null', '--write-out', '%{http_code}'] as const;
  expect(await curl(...status, `${url}etc/passwd`)).toBe('404');
  expect(await curl(...status, '--data', 'x', url)).toBe('405');
  expect(await curl(...status, '--header', 'Host: elsewhere.example', url)).toMatch(/^4\d\d$/);
});

test('what was done is counted exactly, in a form that Prometheus accepts', async () => {
  await using directory = await temporaryDirectory();
  const image = directory.file('image');
  await createImage(image, 16 * MiB);
  await using server = await startServer([
    'file',
    image,
    '--cache',
    'none',
    '--windows',
    '1',
    '--window-size',
    '64K',
    '--export-name',
    'a"b',
    '--metrics',
    '0',
  ]);
  const url = await statusUrl(server);
  expect(url).toMatch(/^http:\/\/127\.0\.0\.1:\d+\/$/);
  await python(server.uri, REQUESTS);
  const samples = await scrapeUntil(
    url,
    (found) => found.get('nbd_serve_connections_total') === 1 && found.get('nbd_serve_connections') === 0,
  );
  const byCommand = (name: string, values: Record<string, number>): Record<string, number> =>
    Object.fromEntries(
      Object.entries(values).map(([command, value]) => [`${name}{command="${command}"}`, value]),
    );
  expect(Object.fromEntries(samples)).toMatchObject({
    ...byCommand('nbd_serve_requests_total', {
      read: 3,
      write: 4,
      flush: 2,
      trim: 1,
      write_zeroes: 1,
      block_status: 1,
      cache: 0,
      unknown: 0,
    }),
    ...byCommand('nbd_serve_request_bytes_total', {
      read: READ_BYTES,
      write: WRITTEN_BYTES,
      trim: 8192,
      write_zeroes: 12345,
      block_status: MiB,
      flush: 0,
    }),
    'nbd_serve_errors_total{errno="ENOSPC"}': 1,
    'nbd_serve_errors_total{errno="EINVAL"}': 1,
    'nbd_serve_errors_total{errno="EIO"}': 0,
    'nbd_serve_export_size_bytes{export="a\\"b"}': 16 * MiB,
    'nbd_serve_export_latched{export="a\\"b"}': 0,
    'nbd_serve_export_losses_total{export="a\\"b"}': 0,
    'nbd_serve_request_duration_seconds_count{command="flush"}': 2,
    'nbd_serve_request_duration_seconds_bucket{command="flush",le="+Inf"}': 2,
    nbd_serve_connections_refused_total: 0,
  });
  // Three MiB in windows of 64 KiB: one large write may fill a window alone.
  expect(samples.get('nbd_serve_windows_written_total')).toBeGreaterThan(0);
  expect(samples.get('nbd_serve_windows_waited_total')).toBeGreaterThan(0);
  expect(samples.get('nbd_serve_windows_evicted_total')).toBeGreaterThan(0);
  expect(await promtoolComplaints(await (await fetch(`${url}metrics`)).text())).toBe('');
});

test('the threads of a server are added up', async () => {
  await using directory = await temporaryDirectory();
  const image = directory.file('image');
  await createImage(image, 16 * MiB);
  const windows = ['--cache', 'none', '--windows', '2', '--window-size', '64K'];
  await using server = await startServer(['file', image, ...windows, '--threads', '2', '--metrics', '0']);
  const url = await statusUrl(server);
  const script = `
h = [connect() for _ in range(4)]
for index, each in enumerate(h):
    each.pwrite(bytearray(b'x' * (1 << 20)), index << 20)
    each.pread(4096, 0)
    each.flush()
`;
  await python(server.uri, script);
  const samples = await scrapeUntil(
    url,
    (found) => found.get('nbd_serve_connections_total') === 4 && found.get('nbd_serve_connections') === 0,
  );
  expect(Object.fromEntries(samples)).toMatchObject({
    'nbd_serve_requests_total{command="write"}': 4,
    'nbd_serve_requests_total{command="read"}': 4,
    'nbd_serve_requests_total{command="flush"}': 4,
    'nbd_serve_request_bytes_total{command="write"}': 4 * MiB,
    'nbd_serve_request_duration_seconds_count{command="flush"}': 4,
    'nbd_serve_export_latched{export=""}': 0,
  });
  const written = samples.get('nbd_serve_windows_written_total') ?? 0;
  expect(written).toBeGreaterThanOrEqual(4);
  // All of them have left the page cache with the last connection.
  expect(samples.get('nbd_serve_windows_evicted_total')).toBe(written);
});

test('of a directory those exports are shown that somebody has open', async () => {
  await using directory = await temporaryDirectory();
  await createImage(directory.file('one.img'), MiB);
  await createImage(directory.file('other.img'), 2 * MiB);
  await using socket = await temporaryDirectory();
  const unix = ['--unix', socket.file('s'), '--metrics', '0'];
  await using server = await startServer(['directory', directory.path, '-e', 'other.img', ...unix]);
  const url = await statusUrl(server);
  const sizeOf = (name: string): string => `nbd_serve_export_size_bytes{export="${name}"}`;
  expect((await scrapeUntil(url, () => true)).has(sizeOf('other.img'))).toBe(false);
  const end = directory.file('end');
  const holding = python(
    server.uri,
    'import time\nh = connect()\nwhile not os.path.exists(arguments[0]): time.sleep(0.01)',
    [end],
  );
  const open = await scrapeUntil(url, (found) => found.get(sizeOf('other.img')) === 2 * MiB);
  expect(open.has(sizeOf('one.img'))).toBe(false);
  await writeFile(end, '');
  await holding;
  await scrapeUntil(url, (found) => !found.has(sizeOf('other.img')));
});

test('promtool complains when there is something to complain about', async () => {
  expect(await promtoolComplaints('# TYPE x_total counter\nx_total 1\n')).toContain('no help text');
  expect(await promtoolComplaints('x{ 1\n')).toContain('promtool exits with');
});

test('a connection is one line when it is opened and one with its totals when it is closed', async () => {
  await using directory = await temporaryDirectory();
  const image = directory.file('image');
  await createImage(image, 16 * MiB);
  await using server = await startServer(['file', image, '--port', '0']);
  await python(server.uri, REQUESTS);
  const closed = await eventually('the connection is closed', () => closeLine(server.log));
  expect(closed).toMatchObject({
    level: 30,
    connection: 1,
    requests: 12,
    readBytes: READ_BYTES,
    writtenBytes: WRITTEN_BYTES,
    errors: 2,
    seconds: expect.any(Number),
  });
  expect(server.log.filter(({ msg }) => msg === 'Connection opened')).toEqual([
    expect.objectContaining({
      level: 30,
      connection: 1,
      client: expect.stringMatching(/^127\.0\.0\.1:\d+$/),
    }),
  ]);
  expect(server.log.filter(({ level }) => level >= 40).map(({ msg }) => msg)).toEqual([
    expect.stringMatching(/^A request was refused: .*WRITE of 2 bytes at 16777215$/),
    expect.stringMatching(/^A request was refused: .*READ of 2 bytes at 16777215$/),
  ]);
});

test('the resident bytes are those that the kernel counts', async () => {
  await using directory = await temporaryDirectory();
  const image = directory.file('image');
  await createFullImage(image, 32 * MiB);
  await evict(image);
  await using server = await startServer(['file', image, '--fadvise', 'random', '--metrics', '0']);
  const url = await statusUrl(server);
  const resident = 'nbd_serve_export_resident_bytes{export=""}';
  await scrapeUntil(url, (found) => found.get(resident) === 0);
  // Both at a time: the kernel may take pages meanwhile, which come back, and the metrics may be a second old.
  await eventually('both count the same, and all that was read', async () => {
    await python(server.uri, 'h = connect(); h.pread(5 << 20, 3 << 20); h.pread(1, 30 << 20)');
    const wanted = (await residentPages(image)).resident * 4096;
    if (wanted < 5 * MiB) return undefined;
    return (await scrape(url)).get(resident) === wanted ? true : undefined;
  });
  await evict(image);
  await scrapeUntil(url, (found) => found.get(resident) === 0);
});

test('a loss of acknowledged data shows, for good', async () => {
  await using fileSystem = await overpromisedFileSystem('ext4');
  const image = await fileSystem.createImage('disk.img', 32 * MiB);
  await using server = await startServer(['file', image, '--metrics', '0']);
  const url = await statusUrl(server);
  await fileSystem.fill();
  const lose = `
h = connect()
h.pwrite(bytearray(b'x' * (4 << 20)), 8 << 20)
try:
    h.flush()
except nbd.Error:
    pass
`;
  await python(server.uri, lose);
  await scrapeUntil(url, (found) => found.get('nbd_serve_export_latched{export=""}') === 1);
  await fileSystem.free();
  const samples = await scrapeUntil(url, () => true);
  expect(samples.get('nbd_serve_export_losses_total{export=""}')).toBeGreaterThan(0);
  const page = await (await fetch(url)).text();
  expect(page).toContain('data-durable="false"');
  expect(page).toContain('Acknowledged data lost');
  server.signal('SIGTERM');
  expect((await server.ended()).code).not.toBe(0);
});

test('a wrong --metrics is one line, and nothing listens', async () => {
  await using directory = await temporaryDirectory();
  const image = directory.file('image');
  const other = createServer().listen(0, '127.0.0.1');
  try {
    const { port } = (await eventually('a port', () => other.address() ?? undefined)) as { port: number };
    // The image that it was to make is not left behind either.
    const inUse = ['--create', '1M', '--metrics', String(port)];
    expect(await expectRefusal(['file', image, '-U', directory.file('s'), ...inUse])).toBe(
      `nbd-serve: Cannot serve metrics on 127.0.0.1 port ${port}: the port is in use (--metrics 0 picks a free one)`,
    );
    await expect(stat(image)).rejects.toThrow('ENOENT');
    const beyond = ['--create', '1M', '--metrics', '0.0.0.0:0'];
    expect(await expectRefusal(['file', image, '-U', directory.file('s'), ...beyond])).toBe(
      'nbd-serve: Refusing to serve metrics in plaintext on 0.0.0.0, which is not a loopback address (--allow-plaintext dares)',
    );
    await expect(stat(image)).rejects.toThrow('ENOENT');
    const message = await expectRefusal(['file', image, '-U', directory.file('s'), '--metrics', '::1:9100']);
    expect(message).toContain('such as 9100, 0.0.0.0:9100 or [::1]:9100');
  } finally {
    other.close();
  }
});
