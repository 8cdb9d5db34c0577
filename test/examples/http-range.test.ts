/** The device from a web server, in this process, with a real server that goes wrong when it is told to. */
import { expect, test } from 'vitest';
import { httpDevice } from '../../examples/http-range.ts';
import { serve } from '../../src/index.ts';
import { FakeLog } from '../server/fake-log.ts';
import { noise } from '../support/image.ts';
import { python } from '../support/python.ts';
import { type Fault, RangeServer } from '../support/range-server.ts';
import { MiB } from '../support/storage.ts';

const CONTENT = noise(MiB + 17, 3);
const OPTIONS = { attempts: 3, pauseMs: 1, timeoutMs: 2000, concurrency: 4 };

/** Serves what the web server has; the errors that were logged and whether a client read what it should. */
async function startDevice(web: RangeServer) {
  const log = new FakeLog();
  const server = await serve(await httpDevice(web.url, OPTIONS), { log });
  return {
    server,
    errors: () => log.at('error').map(({ fields }) => String((fields['err'] as Error).message)),
  };
}

test.each<[string, (Fault | undefined)[]]>([
  ['a server that is not ready', ['unavailable', 'unavailable', undefined, 'unavailable', 'unavailable']],
  ['connections that are reset', ['reset', 'reset', undefined, 'reset', 'reset']],
  ['bodies that are cut short', [undefined, 'truncate', 'truncate']],
  ['another range than the one asked for', [undefined, 'other range']],
  ['an answer that does not come', [undefined, 'hang']],
])('%s: it is tried again', async (_name, faults) => {
  await using web = await RangeServer.start(CONTENT);
  web.faults.push(...faults);
  const { server, errors } = await startDevice(web);
  await using _server = server;
  await python(server.uri, 'h = connect()\nassert h.pread(1000, 5).hex() == sys.argv[2]', [
    CONTENT.subarray(5, 1005).toString('hex'),
  ]);
  expect(web.faults).toEqual([]);
  expect(errors()).toEqual([]);
});

test.each<[string, Fault[], number, string]>([
  ['what fails too often', ['unavailable', 'unavailable', 'unavailable'], 3, 'answers 503'],
  ['what is cut short too often', ['truncate', 'truncate', 'truncate'], 3, 'terminated'],
  ['what is forbidden, at once', ['forbidden'], 1, 'answers 403'],
])('%s is EIO, and the next read is tried anew', async (_name, faults, attempts, text) => {
  await using web = await RangeServer.start(CONTENT);
  const { server, errors } = await startDevice(web);
  await using _server = server;
  web.faults.push(...faults);
  await python(
    server.uri,
    'h = connect()\nfails(errno.EIO, h.pread, 1000, 5)\nassert len(h.pread(1000, 5)) == 1000',
  );
  expect(web.ranges).toEqual(['bytes=0-0', ...new Array(attempts + 1).fill('bytes=5-1004')]);
  expect(errors()).toEqual([expect.stringContaining(text)]);
});

test.each<[string, Partial<RangeServer>, Partial<RangeServer>]>([
  ['ETag', {}, { etag: '"two"' }],
  ['weak ETag', { etag: 'W/"one"' }, { etag: 'W/"two"' }],
  [
    'date',
    { etag: undefined, lastModified: 'Fri, 20 Nov 2026 12:00:00 GMT' },
    { lastModified: 'Fri, 20 Nov 2026 12:00:01 GMT' },
  ],
  ['size under the same ETag', {}, { content: CONTENT.subarray(1) }],
])('a file with another %s is EIO from then on, without another try', async (_name, before, after) => {
  await using web = await RangeServer.start(CONTENT);
  Object.assign(web, before);
  const { server, errors } = await startDevice(web);
  await using _server = server;
  const original = { etag: web.etag, lastModified: web.lastModified, content: web.content };
  await python(server.uri, 'assert len(connect().pread(1000, 5)) == 1000');
  Object.assign(web, after);
  await python(server.uri, 'h = connect()\nfails(errno.EIO, h.pread, 1000, 5)');
  Object.assign(web, original);
  await python(server.uri, 'h = connect()\nfails(errno.EIO, h.pread, 1000, 5)');
  expect(web.ranges).toEqual(['bytes=0-0', 'bytes=5-1004', 'bytes=5-1004']);
  const changed = `${web.url} has changed since it was opened`;
  expect(errors()).toEqual([changed, changed]);
});

test('at most so many requests are under way', async () => {
  await using web = await RangeServer.start(CONTENT);
  web.pauseMs = 5;
  const { server } = await startDevice(web);
  await using _server = server;
  await python(
    server.uri,
    'h = connect()\nfinish(h, [h.aio_pread(nbd.Buffer(512), n * 512) for n in range(64)])',
  );
  expect(web.concurrency).toBe(4);
  expect(web.ranges).toHaveLength(65);
});

test('an empty file is an empty device', async () => {
  await using web = await RangeServer.start(Buffer.alloc(0));
  expect(await httpDevice(web.url, OPTIONS)).toMatchObject({ size: 0 });
});

test('says in one line why a server will not do', async () => {
  await using web = await RangeServer.start(CONTENT);
  web.answersRanges = false;
  await expect(httpDevice(web.url, OPTIONS)).rejects.toThrow('does not answer range requests');
  web.answersRanges = true;
  web.etag = undefined;
  await expect(httpDevice(web.url, OPTIONS)).rejects.toThrow('has neither ETag nor Last-Modified');
  web.faults.push('forbidden');
  await expect(httpDevice(web.url, OPTIONS)).rejects.toThrow('answers 403');
  await expect(httpDevice('http://127.0.0.1:1/', OPTIONS)).rejects.toThrow('fetch failed');
});
