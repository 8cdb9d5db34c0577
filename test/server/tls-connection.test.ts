/** STARTTLS on a real socket, and everything that a client can do wrong on the way. */
import { once } from 'node:events';
import { setImmediate as nextTurn } from 'node:timers/promises';
import { type ConnectionOptions, connect, type TLSSocket } from 'node:tls';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { PAYLOAD_BYTES_MAX } from '../../src/limits.ts';
import { pattern } from '../protocol/bytes.ts';
import { CMD, go, MODERN, OPT, option, REP, request, write } from '../protocol/naive-client.ts';
import { eventually } from '../support/polling.ts';
import { type TemporaryDirectory, temporaryDirectory } from '../support/temporary-directory.ts';
import { Client, ConnectionRig } from './client.ts';
import { FakePlugin } from './fake-plugin.ts';
import { type Authority, loadSetup, makeAuthority, PSK_KEY, PSK_USER, writeTlsFiles } from './tls-files.ts';

const KiB = 1024;
const DISC = request({ type: CMD.DISC });
const STARTTLS = option(OPT.STARTTLS);

let ours: Authority;
let foreign: Authority;
let directory: TemporaryDirectory;

beforeAll(async () => {
  [ours, foreign, directory] = await Promise.all([makeAuthority(), makeAuthority(), temporaryDirectory()]);
  writeTlsFiles(directory.path, ours);
}, 120_000);

afterAll(async () => {
  await directory[Symbol.asyncDispose]();
});

async function makeRig(
  plugin = new FakePlugin('immediate'),
  { handshakeSeconds = 60, isPeerVerified = false, mode = 'require' as 'allow' | 'require' } = {},
): Promise<ConnectionRig> {
  return ConnectionRig.create(
    plugin,
    handshakeSeconds,
    await loadSetup(directory.path, mode, isPeerVerified),
  );
}

/** Says STARTTLS and waits for the ACK. */
async function askForTls(client: Client): Promise<void> {
  await client.take(18);
  client.send(MODERN, STARTTLS);
  expect(await client.takeOptionReply()).toMatchObject({ option: OPT.STARTTLS, type: REP.ACK });
}

/** The same connection from the other side of the TLS handshake. */
async function secure(
  client: Client,
  options: ConnectionOptions = {},
): Promise<{ tls: TLSSocket; client: Client }> {
  await askForTls(client);
  client.socket.removeAllListeners('data');
  const tls = connect({
    socket: client.socket,
    ca: ours.ca.certificate,
    servername: 'localhost',
    ...options,
  });
  await once(tls, 'secureConnect');
  return { tls, client: new Client(tls) };
}

/** An export opened over TLS; requests may follow. */
async function openSecurely(rig: ConnectionRig, options: ConnectionOptions = {}) {
  const { client: plain, connection } = await rig.connect();
  const { tls, client } = await secure(plain, options);
  client.send(go(''));
  await client.takeOptionReply();
  await client.takeOptionReply();
  return { plain, tls, client, connection };
}

/** What must hold once a connection is gone. */
function expectNothingLeft(rig: ConnectionRig): void {
  expect(rig.budget.bytes).toBe(0);
  for (const handle of rig.plugin.handles) {
    expect(handle).toMatchObject({ closeCount: 1, pendingAtClose: 0 });
  }
}

function flush(cookie: bigint): Uint8Array {
  return request({ type: CMD.FLUSH, cookie });
}

function read(offset: number, length: number, cookie: bigint): Uint8Array {
  return request({ type: CMD.READ, offset, length, cookie });
}

describe('over TLS', () => {
  test.each(['TLSv1.2', 'TLSv1.3'] as const)('requests are answered (%s)', async (version) => {
    await using rig = await makeRig();
    const { tls, client } = await openSecurely(rig, { minVersion: version, maxVersion: version });
    expect(tls.getProtocol()).toBe(version);
    client.send(flush(1n), flush(2n));
    expect(await client.takeSimpleReply()).toEqual({ errno: 0, cookie: 1n });
    expect(await client.takeSimpleReply()).toEqual({ errno: 0, cookie: 2n });
    expect(rig.log.at('info').slice(1)).toMatchObject([{ fields: { protocol: version } }]);
  });

  test('handshakes that overlap and fail in between are each their own connection', async () => {
    await using rig = await makeRig();
    const first = await rig.connect();
    await askForTls(first.client);
    const broken = await rig.connect();
    await askForTls(broken.client);
    const second = await openSecurely(rig);
    broken.client.send(pattern(4096));
    await broken.connection.closed;
    expect(rig.log.at('warn')).toHaveLength(1);
    first.client.socket.removeAllListeners('data');
    const tls = connect({ socket: first.client.socket, ca: ours.ca.certificate, servername: 'localhost' });
    await once(tls, 'secureConnect');
    const client = new Client(tls);
    client.send(go(''));
    await client.takeOptionReply();
    await client.takeOptionReply();
    client.send(flush(1n));
    second.client.send(flush(2n));
    expect(await client.takeSimpleReply()).toEqual({ errno: 0, cookie: 1n });
    expect(await second.client.takeSimpleReply()).toEqual({ errno: 0, cookie: 2n });
  });

  test.each([1, 1000, 300 * KiB, 3 * 1024 * KiB])(
    'a WRITE of %d bytes arrives as it was sent',
    async (length) => {
      await using rig = await makeRig(new FakePlugin());
      const { client } = await openSecurely(rig);
      const data = pattern(length);
      client.send(write(512, data, 1n), flush(2n));
      const pending = await eventually('both requests are with the handle', () => {
        const calls = rig.plugin.handle.pending;
        return calls.length === 2 ? [...calls] : undefined;
      });
      expect(Buffer.from(pending[0]?.data ?? []).equals(data)).toBe(true);
      pending[0]?.resolve();
      expect(await client.takeSimpleReply()).toEqual({ errno: 0, cookie: 1n });
    },
  );

  test('a client that reads nothing stops being served, and then gets everything', async () => {
    await using rig = await makeRig();
    const { client } = await openSecurely(rig);
    client.socket.pause();
    client.send(
      ...Array.from({ length: 4 }, (_, index) => read(0, PAYLOAD_BYTES_MAX, BigInt(index))),
      flush(9n),
    );
    await eventually('the client has used up its bytes', () =>
      rig.budget.bytes === 2 * PAYLOAD_BYTES_MAX ? true : undefined,
    );
    for (let turn = 0; turn < 50; turn += 1) await nextTurn();
    expect(rig.plugin.handle.calls).toHaveLength(2);
    let received = 0;
    client.socket.removeAllListeners('data');
    client.socket.on('data', (bytes: Buffer) => {
      received += bytes.length;
    });
    client.socket.resume();
    await eventually('all replies arrive', () =>
      received === 4 * (PAYLOAD_BYTES_MAX + 16) + 16 ? true : undefined,
    );
  });

  test('reading stops while requests have no room, and goes on afterwards', async () => {
    await using rig = await makeRig(new FakePlugin('deferred'));
    const { client } = await openSecurely(rig);
    const count = 40;
    const data = pattern(1024 * KiB);
    for (let index = 0; index < count; index += 1)
      client.send(write(0, data, BigInt(index)), read(0, 4096, 1000n));
    let replies = 0;
    for (let index = 0; index < 2 * count; index += 1) {
      const { errno, cookie } = await client.takeSimpleReply();
      expect(errno).toBe(0);
      if (cookie === 1000n) await client.take(4096);
      replies += 1;
    }
    expect(replies).toBe(2 * count);
  });

  test('DISC answers what is in flight and ends with close_notify', async () => {
    await using rig = await makeRig(new FakePlugin());
    const { tls, client, connection } = await openSecurely(rig);
    const ended = once(tls, 'end');
    client.send(flush(1n), DISC);
    const call = await eventually('the request is with the handle', () => rig.plugin.handle.pending[0]);
    call.resolve();
    expect(await client.takeSimpleReply()).toEqual({ errno: 0, cookie: 1n });
    await ended;
    tls.end();
    await connection.closed;
    expectNothingLeft(rig);
    expect(rig.log.at('warn')).toEqual([]);
  });

  test('a shutdown answers what is in flight and ends with close_notify', async () => {
    await using rig = await makeRig(new FakePlugin());
    const { tls, client, connection } = await openSecurely(rig);
    const ended = once(tls, 'end');
    client.send(flush(1n));
    const call = await eventually('the request is with the handle', () => rig.plugin.handle.pending[0]);
    connection.shutDown();
    call.resolve();
    expect(await client.takeSimpleReply()).toEqual({ errno: 0, cookie: 1n });
    await ended;
    await connection.closed;
    expectNothingLeft(rig);
  });

  test('a client that disappears leaves nothing behind and nothing in the log', async () => {
    await using rig = await makeRig(new FakePlugin('deferred'));
    const sessions = [read(0, 300 * KiB, 1n), write(0, pattern(300 * KiB), 2n), flush(3n)];
    for (const cut of [1, 28, 29, 28 + 200 * KiB, 56 + 300 * KiB, 84 + 300 * KiB]) {
      const { plain, client, connection } = await openSecurely(rig);
      client.send(Buffer.concat(sessions).subarray(0, cut));
      await nextTurn();
      plain.socket.destroy();
      await connection.closed;
      expectNothingLeft(rig);
    }
    expect([...rig.log.at('warn'), ...rig.log.at('error')]).toEqual([]);
  });

  test('bytes that are no TLS cut an established session', async () => {
    await using rig = await makeRig();
    const { plain, tls, connection } = await openSecurely(rig);
    tls.on('error', () => {});
    // Past the encryption: what somebody in between would do.
    plain.socket.write(flush(1n));
    await connection.closed;
    expect(rig.plugin.handle.calls).toEqual([]);
    expectNothingLeft(rig);
  });
});

describe('who gets in', () => {
  const KEY = { pskCallback: () => ({ psk: Buffer.from(PSK_KEY, 'hex'), identity: PSK_USER }) };

  async function attempt(rig: ConnectionRig, options: ConnectionOptions): Promise<string> {
    const { client: plain, connection } = await rig.connect();
    await askForTls(plain);
    plain.socket.removeAllListeners('data');
    const tls = connect({
      socket: plain.socket,
      ca: ours.ca.certificate,
      servername: 'localhost',
      ...options,
    });
    const client = new Client(tls);
    const outcome = await Promise.race([
      client.ended.then(() => 'turned away'),
      once(tls, 'secureConnect').then(
        () => {
          client.send(go(''));
          return client.takeOptionReply().then(
            () => 'served',
            () => 'turned away',
          );
        },
        () => 'turned away',
      ),
    ]);
    tls.destroy();
    plain.socket.destroy();
    await connection.closed;
    return outcome;
  }

  test.each(['TLSv1.2', 'TLSv1.3'] as const)('a verified certificate, no other (%s)', async (version) => {
    await using rig = await makeRig(new FakePlugin('immediate'), { isPeerVerified: true });
    const versions = { minVersion: version, maxVersion: version };
    expect(await attempt(rig, { ...versions, cert: ours.client.certificate, key: ours.client.key })).toBe(
      'served',
    );
    expect(rig.log.at('warn')).toEqual([]);
    expect(await attempt(rig, versions)).toBe('turned away');
    expect(rig.log.at('warn')).toHaveLength(1);
    const { client } = foreign;
    expect(await attempt(rig, { ...versions, cert: client.certificate, key: client.key })).toBe(
      'turned away',
    );
    expect(rig.log.at('warn')).toHaveLength(2);
    expect(rig.log.at('warn')[1]?.message).toMatch(
      /^The TLS handshake failed: (unable to get local issuer|self-signed) certificate/,
    );
  });

  test.each(['TLSv1.2', 'TLSv1.3'] as const)('the right key, no other (%s)', async (version) => {
    await using rig = await makeRig(new FakePlugin('immediate'), { isPeerVerified: true });
    const options = {
      minVersion: version,
      maxVersion: version,
      checkServerIdentity: () => undefined,
      ciphers: 'TLS_AES_128_GCM_SHA256:ECDHE-PSK-CHACHA20-POLY1305',
    };
    expect(await attempt(rig, { ...options, ...KEY })).toBe('served');
    const guess = { pskCallback: () => ({ psk: Buffer.alloc(16), identity: PSK_USER }) };
    expect(await attempt(rig, { ...options, ...guess })).toBe('turned away');
    const stranger = { pskCallback: () => ({ psk: Buffer.alloc(16), identity: 'mallory' }) };
    expect(await attempt(rig, { ...options, ...stranger })).toBe('turned away');
    expect(rig.log.at('warn')).toHaveLength(2);
  });

  test('nobody with TLS 1.1', async () => {
    await using rig = await makeRig();
    const options = { minVersion: 'TLSv1.1', maxVersion: 'TLSv1.1', ciphers: 'DEFAULT@SECLEVEL=0' } as const;
    expect(await attempt(rig, options)).toBe('turned away');
    expect(rig.log.at('warn')[0]?.message).toBe('The TLS handshake failed: unsupported protocol');
  });

  test('everybody in plaintext, too, when TLS is only allowed', async () => {
    await using rig = await makeRig(new FakePlugin('immediate'), { mode: 'allow' });
    const { client } = await rig.open();
    client.send(flush(1n));
    expect(await client.takeSimpleReply()).toEqual({ errno: 0, cookie: 1n });
    const { client: secured } = await openSecurely(rig);
    secured.send(flush(2n));
    expect(await secured.takeSimpleReply()).toEqual({ errno: 0, cookie: 2n });
  });

  test('nobody in plaintext when TLS is required', async () => {
    await using rig = await makeRig();
    const { client } = await rig.connect();
    await client.take(18);
    client.send(MODERN, go(''));
    expect(await client.takeOptionReply()).toMatchObject({ option: OPT.GO, type: 0x80000005 });
  });
});

describe('an attack', () => {
  test('plaintext in one piece with STARTTLS is cut and never answered', async () => {
    await using rig = await makeRig();
    const { client, connection } = await rig.connect();
    await client.take(18);
    client.send(MODERN, STARTTLS, go(''));
    await connection.closed;
    await client.ended;
    await expect(client.take(1)).rejects.toThrow('ended after 0');
    expect(rig.log.at('warn')).toMatchObject([{ fields: { code: 'ERR_NBD_PLAINTEXT_AFTER_STARTTLS' } }]);
    expect(rig.plugin.handles).toEqual([]);
  });

  test('plaintext right behind STARTTLS, in a piece of its own, is never answered', async () => {
    await using rig = await makeRig();
    const { client, connection } = await rig.connect();
    await client.take(18);
    client.send(MODERN, STARTTLS);
    client.socket.write(go(''));
    await connection.closed;
    expect(rig.log.at('warn')).toHaveLength(1);
    expect(rig.plugin.handles).toEqual([]);
  });

  test('rubbish in place of a ClientHello is cut with one line in the log', async () => {
    await using rig = await makeRig();
    const { client, connection } = await rig.connect();
    await askForTls(client);
    client.send(pattern(4096));
    await connection.closed;
    expect(rig.log.at('warn')).toHaveLength(1);
    expect(rig.log.at('warn')[0]?.message).toBe('The TLS handshake failed: wrong version number');
  });

  test.each([
    ['before the ClientHello', 0],
    ['inside the ClientHello', 100],
  ])('a client that stalls %s is cut at the deadline, with one line in the log', async (_, count) => {
    await using rig = await makeRig(new FakePlugin('immediate'), { handshakeSeconds: 0.3 });
    const { client, connection } = await rig.connect();
    await askForTls(client);
    if (count > 0) {
      // A TLS 1.3 ClientHello claims 512 bytes; these are the first of them.
      client.send(Buffer.concat([Buffer.from('1603010200010001fc0303', 'hex'), Buffer.alloc(count)]));
    }
    await connection.closed;
    expect(rig.log.at('warn')).toHaveLength(1);
    expect(rig.log.at('warn')[0]?.message).toContain('No export was opened within 0.3 s');
  });

  test('the deadline goes on after the TLS handshake', async () => {
    await using rig = await makeRig(new FakePlugin('immediate'), { handshakeSeconds: 1 });
    const { client: plain, connection } = await rig.connect();
    const { tls } = await secure(plain);
    tls.on('error', () => {});
    await connection.closed;
    expect(rig.log.at('warn')).toHaveLength(1);
  });

  test('a client that leaves in the TLS handshake is one line in the log', async () => {
    await using rig = await makeRig();
    const { client, connection } = await rig.connect();
    await askForTls(client);
    client.socket.destroy();
    await connection.closed;
    expect(rig.log.at('warn')).toHaveLength(1);
    expect(rig.log.at('warn')[0]?.message).toBe('The TLS handshake failed: the client closed the connection');
  });

  test('a shutdown does not wait for a TLS handshake', async () => {
    await using rig = await makeRig();
    const { client, connection } = await rig.connect();
    await askForTls(client);
    connection.shutDown();
    await connection.closed;
    expect(rig.log.at('warn')).toEqual([]);
  });
});
