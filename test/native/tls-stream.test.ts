/** TLS on a StreamSocket: the same contract as without, and what only TLS can do wrong. */
import { spawn } from 'node:child_process';
import { createPrivateKey } from 'node:crypto';
import { once } from 'node:events';
import { join } from 'node:path';
import { beforeAll, describe, expect, test } from 'vitest';
import { type Certified, makeCertificates } from '../../src/cli/certificates.ts';
import { native, type StreamSocket, type TlsContext } from '../../src/native/binding.ts';
import { EAGAIN, EOPNOTSUPP } from '../../src/native/errno.ts';
import { eventually } from '../support/polling.ts';
import { happens, pair } from './stream-pair.ts';
import { defer, EBADF, KiB, temporaryFolder } from './support.ts';
import {
  APPLICATION_DATA,
  Forger,
  HANDSHAKE,
  KEY_UPDATE_HEADER,
  NOT_REQUESTED,
  REQUESTED,
} from './tls-forger.ts';
import { handshake } from './tls-pair.ts';

const EPROTO = 71;
const EALREADY = 114;
const CIPHERS = 'ECDHE-RSA-AES128-GCM-SHA256';
const SUITES = 'TLS_AES_128_GCM_SHA256';

let ca: Certified;
let server: Certified;
let client: Certified;

beforeAll(async () => {
  ({ ca, server, client } = await makeCertificates(['localhost'], 2));
}, 120_000);

function contextOf(isPeerVerified = false): TlsContext {
  return new native.TlsContext(
    ca.certificate,
    server.certificate,
    server.key,
    '',
    CIPHERS,
    SUITES,
    isPeerVerified,
  );
}

/** No two bytes of it at a distance of less than 251 records are alike. */
function pattern(length: number): Buffer {
  return Buffer.from(Uint8Array.from({ length }, (_, index) => (index * 7 + (index >> 8)) & 0xff));
}

function turn(): Promise<void> {
  return new Promise((resolve) => setImmediate(resolve));
}

/** What comes without being waited for has come. */
async function settled(turns = 20): Promise<void> {
  for (let count = 0; count < turns; count += 1) await new Promise((resolve) => setTimeout(resolve, 1));
}

/** Fewer than a loop with work makes in 50 ms (5,000, under sanitizers 600), more than one without (3). */
const MANY_TURNS = 50;

/** Of the event loop, in 50 ms in which nothing happens. */
async function turnsWhileIdle(): Promise<number> {
  const { loopCount } = performance.nodeTiming.uvMetricsInfo;
  await new Promise((resolve) => setTimeout(resolve, 50));
  return performance.nodeTiming.uvMetricsInfo.loopCount - loopCount;
}

/** Once what the client's end of the socket has to do in this loop is done. */
async function expectNoWork(): Promise<void> {
  await settled();
  expect(await turnsWhileIdle()).toBeLessThan(MANY_TURNS);
}

describe.each(['TLSv1.2', 'TLSv1.3'] as const)('with %s', (version) => {
  const versions = { minVersion: version, maxVersion: version };

  test('a handshake tells what is in use, and that the client holds the certificate for good', async () => {
    const { tls, failure, protocol, cipher } = await handshake(contextOf(), {
      ...versions,
      ca: ca.certificate,
      servername: 'localhost',
      rejectUnauthorized: true,
    });
    expect([failure, protocol, cipher]).toEqual(['', version, tls.getCipher().standardName]);
  });

  test('records of odd sizes in one go go to the expected bytes first, then where they usually go', async () => {
    const { tls, stream, buffer, byteCount } = await handshake(contextOf(), versions, 64 * KiB);
    const sent = pattern(100_000);
    const payload = Buffer.alloc(60_000);
    stream.expect(payload, 0, payload.length);
    let position = 0;
    for (const length of [1, 2, 16_383, 1, 16_384, 16_385, 27, 10_817]) {
      tls.write(sent.subarray(position, position + length));
      position += length;
    }
    expect(position).toBe(60_000);
    stream.start();
    await happens('the payload arrives', () => byteCount() === 60_000);
    expect(payload.equals(sent.subarray(0, 60_000))).toBe(true);
    tls.write(sent.subarray(60_000));
    await happens('the rest arrives', () => byteCount() === 100_000);
    expect(payload.equals(sent.subarray(0, 60_000))).toBe(true);
    expect(buffer.subarray(8, 9).equals(sent.subarray(60_000, 60_001))).toBe(true);
  });

  test('what is left of a record when reading stops comes when it starts again, a part each turn', async () => {
    const ends = await handshake(contextOf(), versions, KiB, (socket) => {
      if (isStopping) socket.stop();
    });
    const { tls, stream, received, results } = ends;
    let isStopping = true;
    stream.limit(3);
    tls.write('0123456789');
    stream.start();
    await happens('the first part arrives', () => results.length > 0);
    for (let count = 0; count < 20; count += 1) await turn();
    expect(received).toEqual(['012']);
    isStopping = false;
    stream.start();
    expect(results).toEqual([3]);
    await happens('the rest arrives', () => received.join('') === '0123456789');
    expect(results).toEqual([3, 3, 3, 1]);
  });

  test('what the client sends behind its part of the handshake is there when reading starts', async () => {
    const ends = await handshake(contextOf(), versions);
    ends.tls.write('early');
    // Long after it is in the kernel, or in OpenSSL.
    await new Promise((resolve) => setTimeout(resolve, 20));
    ends.stream.start();
    await happens('it arrives', () => ends.received.join('') === 'early');
  });

  test('a client that reads nothing is sent no more than the kernel has room for, and then everything', async () => {
    const { tls, stream, writable } = await handshake(contextOf(), versions);
    tls.pause();
    const bytes = pattern(8 * 1024 * KiB);
    const before = process.memoryUsage().rss;
    let sent = 0;
    const send = (): number => {
      let result: number;
      do {
        result = stream.send(bytes, sent, bytes.length - sent);
        sent += Math.max(result, 0);
      } while (result > 0 && sent < bytes.length);
      return result;
    };
    expect(send()).toBe(-EAGAIN);
    // The kernel has at most 4 MiB (twice SO_SNDBUF), the client some 100 KiB.
    expect(sent).toBeGreaterThan(0);
    expect(sent).toBeLessThan(6 * 1024 * KiB);
    for (let count = 0; count < 100; count += 1)
      expect(stream.send(bytes, sent, bytes.length - sent)).toBe(-EAGAIN);
    expect(process.memoryUsage().rss - before).toBeLessThan(32 * 1024 * KiB);
    const got: Buffer[] = [];
    let gotBytes = 0;
    tls.on('data', (data: Buffer) => {
      got.push(data);
      gotBytes += data.length;
    });
    while (sent < bytes.length) {
      const { length } = writable;
      stream.watch_writable();
      tls.resume();
      await happens('there is room', () => writable.length > length);
      send();
    }
    await happens('everything arrives', () => gotBytes === bytes.length);
    expect(Buffer.concat(got).equals(bytes)).toBe(true);
  });

  test('the end is told with close_notify and without, and answers still go out', async () => {
    for (const end of ['close_notify', 'FIN'] as const) {
      const { tls, client: socket, stream, received } = await handshake(contextOf(), versions);
      stream.start();
      const answer = once(tls, 'data');
      await new Promise((resolve) => tls.write('last', resolve));
      if (end === 'close_notify') tls.end();
      else socket.end();
      await happens('the end is told', () => received.includes(0));
      expect(received).toEqual(['last', 0]);
      if (end === 'close_notify') {
        // Node's client reads nothing behind its own end.
        expect(stream.send(Buffer.from('answer'), 0, 6)).toBe(6);
        continue;
      }
      expect(stream.send(Buffer.from('answer'), 0, 6)).toBe(6);
      expect(String((await answer)[0])).toBe('answer');
    }
  });

  test('bytes that are no record are EPROTO, and no news to others who use OpenSSL', async () => {
    const { client: socket, stream, received } = await handshake(contextOf(), versions);
    stream.start();
    socket.write(Buffer.alloc(100, 'rubbish'));
    await happens('it is told', () => received.length === 1);
    expect(received).toEqual([-EPROTO]);
    expect(stream.send(Buffer.from('x'), 0, 1)).toBe(-EPROTO);
    expect(() => createPrivateKey('no key')).toThrow(/DECODER|PEM|unsupported/);
  });

  test('says goodbye, once', async () => {
    const { tls, stream } = await handshake(contextOf(), versions);
    const ended = once(tls, 'end');
    tls.resume();
    expect(stream.shut_down()).toBe(0);
    expect(stream.shut_down()).toBe(0);
    await ended;
    expect(stream.send(Buffer.alloc(1), 0, 1)).toBeLessThan(0);
  });

  test('says goodbye behind what the kernel has no room for, once it has', async () => {
    const { tls, stream, writable } = await handshake(contextOf(), versions);
    tls.pause();
    const bytes = Buffer.alloc(8 * 1024 * KiB, 'x');
    let sent = 0;
    for (let result = 1; result > 0; sent += Math.max(result, 0)) {
      result = stream.send(bytes, sent, bytes.length - sent);
    }
    expect(stream.shut_down()).toBe(-EAGAIN);
    expect(stream.shut_down()).toBe(-EAGAIN);
    let got = 0;
    tls.on('data', (data: Buffer) => {
      got += data.length;
    });
    tls.resume();
    const ended = once(tls, 'end');
    let result = -EAGAIN;
    while (result === -EAGAIN) {
      const { length } = writable;
      expect(stream.watch_writable()).toBe(0);
      await happens('there is room', () => writable.length > length);
      result = stream.shut_down();
    }
    expect(result).toBe(0);
    await ended;
    // With the piece that was encrypted, and not told as sent.
    expect(got).toBeGreaterThan(sent);
  });

  test('a client without a certificate is told why in an alert, and so are we', async () => {
    const context = contextOf(true);
    const refused = await handshake(context, versions);
    expect(refused.failure).toBe('peer did not return a certificate');
    expect(refused.clientError?.code).toMatch(
      version === 'TLSv1.3' ? 'ERR_SSL_TLSV13_ALERT_CERTIFICATE_REQUIRED' : /^ERR_SSL_.*ALERT/,
    );
    const foreign = await handshake(context, { ...versions, cert: server.certificate, key: server.key });
    // A server's certificate is none for clients.
    expect(foreign.failure).toBe('unsuitable certificate purpose');
    const known = await handshake(context, { ...versions, cert: client.certificate, key: client.key });
    expect(known.failure).toBe('');
  });
});

test('new keys in the middle (KeyUpdate) change nothing for those above', async () => {
  const { stream, received, path } = listening();
  const s_client = spawn('openssl', ['s_client', '-unix', path, '-tls1_3'], {
    stdio: 'pipe',
  });
  defer(() => s_client.kill());
  const output: Buffer[] = [];
  // The latter tells of KeyUpdates.
  for (const each of [s_client.stdout, s_client.stderr]) each.on('data', (data: Buffer) => output.push(data));
  const socket = await stream;
  const secured = new Promise<string>((resolve) => socket.start_tls(contextOf(), resolve));
  expect(await secured).toBe('');
  socket.start();
  for (const round of [1, 2, 3]) {
    // K: and asks for new keys of ours; k: only its own.
    s_client.stdin.write(round === 2 ? 'k\n' : 'K\n');
    await new Promise((resolve) => setTimeout(resolve, 150));
    s_client.stdin.write(`question ${round}\n`);
    await happens('it arrives', () => received.join('').includes(`question ${round}\n`));
    const answer = Buffer.from(`answer ${round}\n`);
    expect(socket.send(answer, 0, answer.length)).toBe(answer.length);
    await happens('the answer arrives', () => Buffer.concat(output).includes(answer));
  }
  expect(Buffer.concat(output).toString()).toContain('KEYUPDATE');
  expect(received.join('')).toBe('question 1\nquestion 2\nquestion 3\n');
});

describe('a KeyUpdate in two records, of which the second is not there', () => {
  /** A connection that has received 'request' and the first, and does not read any more. */
  async function halfway(context: TlsContext) {
    const ends = await handshake(context, { minVersion: 'TLSv1.3' });
    const forger = new Forger(ends);
    ends.stream.start();
    forger.send(
      forger.record(APPLICATION_DATA, Buffer.from('request')),
      forger.record(HANDSHAKE, KEY_UPDATE_HEADER),
    );
    await happens('the request arrives', () => ends.received.join('') === 'request');
    await settled();
    ends.stream.stop();
    const got: Buffer[] = [];
    ends.tls.on('data', (data: Buffer) => got.push(data));
    return { ...ends, forger, got: () => Buffer.concat(got) };
  }

  test('what is sent waits for it without reading and without work, and is sent once', async () => {
    const { stream, forger, writable, received, got } = await halfway(contextOf());
    const reply = pattern(300_000);
    expect(stream.send(reply, 0, reply.length)).toBe(-EAGAIN);
    expect(stream.send(reply, 0, reply.length)).toBe(-EAGAIN);
    expect(stream.watch_writable()).toBe(0);
    await expectNoWork();
    expect(writable).toEqual([]);
    const rest = forger.record(HANDSHAKE, NOT_REQUESTED);
    forger.changeKeys();
    forger.send(rest, forger.record(APPLICATION_DATA, Buffer.from('second')));
    await happens('it can be sent', () => writable.length === 1);
    for (let sent = 0; sent < reply.length; ) {
      const result = stream.send(reply, sent, reply.length - sent);
      expect(result > 0 || result === -EAGAIN).toBe(true);
      sent += Math.max(result, 0);
      await turn();
    }
    await happens('it arrives', () => got().length >= reply.length);
    await settled();
    expect(got().equals(reply)).toBe(true);
    expect(received).toEqual(['request']);
    stream.start();
    await happens('what came behind it arrives', () => received.join('') === 'requestsecond');
  });

  test('what is sent waits for it while reading goes on, too', async () => {
    const { stream, forger, writable, received, got } = await halfway(contextOf());
    stream.start();
    expect(stream.send(Buffer.from('reply'), 0, 5)).toBe(-EAGAIN);
    expect(stream.watch_writable()).toBe(0);
    await expectNoWork();
    expect(writable).toEqual([]);
    const rest = forger.record(HANDSHAKE, NOT_REQUESTED);
    forger.changeKeys();
    forger.send(rest.subarray(0, 7));
    await settled();
    forger.send(rest.subarray(7), forger.record(APPLICATION_DATA, Buffer.from('second')));
    await happens('the rest arrives', () => received.join('') === 'requestsecond');
    await happens('it can be sent', () => writable.length > 0);
    expect(stream.send(Buffer.from('reply'), 0, 5)).toBe(5);
    await happens('the reply arrives', () => got().toString() === 'reply');
  });

  test.each(['stopped', 'started'])('what a send has received is not lost, reading %s', async (state) => {
    const context = contextOf();
    const { stream, forger, received, got } = await halfway(context);
    const other = await handshake(context, {}, 64 * KiB);
    other.stream.start();
    const rest = forger.record(HANDSHAKE, NOT_REQUESTED);
    forger.changeKeys();
    forger.send(rest, forger.record(APPLICATION_DATA, Buffer.from('second')));
    if (state === 'started') stream.start();
    expect(stream.send(Buffer.from('reply'), 0, 5)).toBe(5);
    other.tls.write(pattern(50_000));
    await happens('the other one receives', () => other.byteCount() === 50_000);
    stream.start();
    await happens('it arrives', () => received.join('') === 'requestsecond');
    await happens('the reply arrives', () => got().toString() === 'reply');
  });

  test('an alert for what is there instead is sent to nobody else', async () => {
    const context = contextOf();
    const { stream, forger, tls } = await halfway(context);
    const other = await handshake(context);
    const alert = once(tls, 'error');
    const heard = once(other.tls, 'data');
    forger.send(forger.record(HANDSHAKE, Buffer.from([7])));
    expect(stream.send(Buffer.from('reply'), 0, 5)).toBe(-EPROTO);
    expect(other.stream.send(Buffer.from('hello'), 0, 5)).toBe(5);
    expect(String((await heard)[0])).toBe('hello');
    expect((await alert)[0]).toMatchObject({ code: expect.stringContaining('ALERT') as string });
  });

  test('a client that is gone is an error to whoever sends', async () => {
    const { stream, client: socket, writable } = await halfway(contextOf());
    expect(stream.send(Buffer.from('reply'), 0, 5)).toBe(-EAGAIN);
    stream.watch_writable();
    socket.destroy();
    await happens('it is told', () => writable.length === 1);
    expect(stream.send(Buffer.from('reply'), 0, 5)).toBeLessThan(-EAGAIN);
  });
});

test('whoever asks for new keys without end and reads nothing costs no work, and is heard when it reads', async () => {
  const ends = await handshake(contextOf(), { minVersion: 'TLSv1.3' });
  const { tls, stream, received } = ends;
  const forger = new Forger(ends);
  // KeyUpdates alone do not fill what would pause it.
  const { _handle: handle } = tls as unknown as { _handle: { readStop(): void; readStart(): void } };
  handle.readStop();
  stream.start();
  const flood = Array.from({ length: 20_000 }, () => {
    const record = forger.record(HANDSHAKE, KEY_UPDATE_HEADER, REQUESTED);
    forger.changeKeys();
    return record;
  });
  forger.send(...flood, forger.record(APPLICATION_DATA, Buffer.from('question')));
  // Until the kernel has no room for more answers, and some of them wait.
  await eventually('work ends', async () => ((await turnsWhileIdle()) < MANY_TURNS ? true : undefined));
  // Whoever stops and starts meanwhile changes nothing.
  stream.stop();
  await expectNoWork();
  stream.start();
  await expectNoWork();
  expect(received).toEqual([]);
  stream.stop();
  handle.readStart();
  await settled();
  stream.start();
  await happens('the question arrives', () => received.join('') === 'question');
  const answer = once(tls, 'data');
  expect(stream.send(Buffer.from('answer'), 0, 6)).toBe(6);
  expect(String((await answer)[0])).toBe('answer');
});

test('two connections take turns in the middle of what they receive', async () => {
  const context = contextOf();
  const ends = await Promise.all([1, 2].map(() => handshake(context, {}, 64 * KiB)));
  const sent = ends.map((_, index) => pattern(300_000).map((byte) => byte ^ index));
  const payloads = ends.map(() => Buffer.alloc(300_000));
  ends.forEach(({ stream, tls }, index) => {
    stream.expect(payloads[index] ?? Buffer.alloc(0), 0, 300_000);
    tls.write(sent[index] ?? '');
    stream.start();
  });
  await happens('everything arrives', () => ends.every(({ byteCount }) => byteCount() === 300_000));
  expect(payloads.every((payload, index) => payload.equals(sent[index] ?? Buffer.alloc(0)))).toBe(true);
});

test('a client that is gone in the middle of the handshake, and rubbish, are reasons', async () => {
  for (const [bytes, reason] of [
    ['', 'the client closed the connection'],
    ['GET / HTTP/1.1\r\n\r\n', 'http request'],
    ['rubbish'.repeat(100), 'wrong version number'],
    ['\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03', 'the client closed the connection'],
  ] as const) {
    const { stream, client: socket } = await pair();
    const secured = new Promise<string>((resolve) => stream.start_tls(contextOf(), resolve));
    socket.end(Buffer.from(bytes, 'latin1'));
    expect(await secured).toBe(reason);
    stream.close();
  }
});

test('may be closed in the middle of a handshake, which then has no end', async () => {
  const { stream, client: socket } = await pair();
  let calls = 0;
  expect(
    stream.start_tls(contextOf(), () => {
      calls += 1;
    }),
  ).toBe(0);
  const ended = once(socket, 'close');
  socket.resume();
  stream.close();
  socket.end();
  await ended;
  expect(calls).toBe(0);
});

test('no files, no second handshake, and nothing once it is closed', async () => {
  const { stream, buffer } = await handshake(contextOf());
  expect(stream.start_tls(contextOf(), () => {})).toBe(-EALREADY);
  expect(stream.expect_in_file(0, 0, 4096, false)).toBe(false);
  expect(stream.send_file(buffer, 0, 4, 0, 0, 4)).toBe(-EOPNOTSUPP);
  expect(stream.send_parts(buffer, 0, 4, [], new Float64Array(0))).toBe(-EOPNOTSUPP);
  stream.close();
  expect(stream.start_tls(contextOf(), () => {})).toBe(-EBADF);
});

test('refuses what is no context, and texts that are no certificates', async () => {
  const { stream } = await pair();
  const nothing = (): void => {};
  expect(() => stream.start_tls({} as TlsContext, nothing)).toThrow(TypeError);
  expect(() => stream.start_tls(stream as unknown as TlsContext, nothing)).toThrow(/a TlsContext as context/);
  expect(() => stream.start_tls(contextOf(), 1 as unknown as () => void)).toThrow(TypeError);
  const make = (...[caText, certificate, key, crl]: readonly [string, string, string, string]) =>
    new native.TlsContext(caText, certificate, key, crl, CIPHERS, SUITES, false);
  const { certificate, key } = server;
  expect(() => make('rubbish', certificate, key, '')).toThrow('no start line');
  expect(() => make(ca.certificate, certificate, client.key, '')).toThrow('key values mismatch');
  expect(() => make(ca.certificate, certificate, key, 'rubbish')).toThrow('no start line');
  const damaged = `${ca.certificate}\n-----BEGIN CERTIFICATE-----\nrubbish\n-----END CERTIFICATE-----\n`;
  expect(() => make(damaged, certificate, key, '')).toThrow();
  expect(() => new native.TlsContext('', '', '', '', 'NONSENSE', SUITES, false)).toThrow('no cipher match');
  expect(() => contextOf().add_psk('alice', Buffer.alloc(4), 1, 4)).toThrow(RangeError);
});

/** As `pair`, for a client that connects by the path of the socket. */
function listening(): {
  readonly stream: Promise<StreamSocket>;
  readonly received: string[];
  readonly path: string;
} {
  const path = join(temporaryFolder(), 'socket');
  const buffer = Buffer.alloc(KiB);
  const received: string[] = [];
  const stream = new Promise<StreamSocket>((resolve) => {
    const listener = new native.Listener(native.listen_unix(path, 0o600, 1), (fd) => {
      listener.close();
      const socket = new native.StreamSocket(
        fd,
        buffer,
        0,
        buffer.length,
        (result) => {
          if (result > 0) received.push(buffer.toString('latin1', 0, result));
          else socket.stop();
        },
        () => {},
      );
      defer(() => socket.close());
      resolve(socket);
    });
  });
  return { stream, received, path };
}
