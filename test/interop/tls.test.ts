import { copyFile, mkdir, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { attempt, run } from '../support/command.ts';
import { createFullImage, createImage, expectSameContent } from '../support/image.ts';
import { eventually } from '../support/polling.ts';
import { python } from '../support/python.ts';
import { CLIENT_FLAGS, encodeGo, encodeOption, RawClient } from '../support/raw-client.ts';
import { expectRefusal, LOGGED, type NbdServer, startServer } from '../support/server.ts';
import { MiB } from '../support/storage.ts';
import { type TemporaryDirectory, temporaryDirectory } from '../support/temporary-directory.ts';
import { gnutlsInit, PSK_USER, revoke, tlsInit, withCertificates, withPsk } from '../support/tls-files.ts';

const SIZE = 64 * MiB;
const STARTTLS = encodeOption(5);
const ERR_TLS_REQD = 0x80000005;
const WARN = 40;

let directory: TemporaryDirectory;
let image: string;
/** Files of tls-init, and of GnuTLS. */
let [ours, gnutls] = ['', ''];

beforeAll(async () => {
  directory = await temporaryDirectory();
  image = directory.file('disk.img');
  [ours, gnutls] = [directory.file('ours'), directory.file('gnutls')];
  await createFullImage(image, SIZE);
  await Promise.all([tlsInit(ours), gnutlsInit(gnutls)]);
});

afterAll(async () => {
  await directory[Symbol.asyncDispose]();
});

function psk(files: string): string {
  return join(files, 'keys.psk');
}

async function serve(files: string, ...more: string[]): Promise<NbdServer> {
  return startServer([
    'file',
    image,
    '--tls',
    'require',
    '--tls-certificates',
    files,
    '--tls-psk',
    psk(files),
    ...more,
  ]);
}

/** TLS failures and attacks, as the log has them; all of them when the server has ended. */
function warnings({ log }: NbdServer): string[] {
  return log.filter(({ level }) => level >= WARN).map(({ msg }) => msg ?? '');
}

const SCRIPT = `
h = connect(strict=nbd.STRICT_MASK)
assert h.get_tls_negotiated()
assert h.get_structured_replies_negotiated()
data = bytes(range(256)) * 4096
h.pwrite(data, 4096, nbd.CMD_FLAG_FUA)
assert h.pread(len(data), 4096) == data
h.zero(4096, 4096)
assert h.pread(4096, 4096) == bytes(4096)
h.flush()
big = os.urandom(32 * 1024 * 1024)
h.pwrite(big, 16 * 1024 * 1024)
assert h.pread(len(big), 16 * 1024 * 1024) == big
cookies = [h.aio_pread(nbd.Buffer(65536), 65536 * i) for i in range(200)]
finish(h, cookies)
h.shutdown()
print('ok')
`;

describe.each([
  ['tls-init', () => ours],
  ['GnuTLS', () => gnutls],
])('with files made by %s', (_, filesOf) => {
  test('libnbd in strict mode works over X.509 and over PSK', async () => {
    await using server = await serve(filesOf());
    expect(server.uri).toMatch(/^nbds\+unix:\/\/\/\?socket=/);
    expect(await python(withCertificates(server.uri, filesOf()), SCRIPT)).toBe('ok\n');
    expect(await python(withPsk(server.uri, psk(filesOf())), SCRIPT)).toBe('ok\n');
    await server.stop();
    expect(warnings(server)).toEqual([]);
  });

  test('nbdinfo knows that TLS is in use, on a Unix socket and on TCP', async () => {
    for (const listener of [[], ['--port', '0']]) {
      await using server = await serve(filesOf(), ...listener);
      expect(server.uri).toMatch(listener.length === 0 ? /^nbds\+unix:/ : /^nbds:\/\/127\.0\.0\.1:\d+\/$/);
      for (const uri of [withCertificates(server.uri, filesOf()), withPsk(server.uri, psk(filesOf()))]) {
        const info = JSON.parse(await run(['nbdinfo', '--json', uri])) as { readonly TLS: boolean };
        expect(info.TLS).toBe(true);
      }
      await server.stop();
      expect(warnings(server)).toEqual([]);
    }
  });

  test.each(['', ':-VERS-TLS1.3'])(
    'qemu-img works over X.509 and over PSK (priority NORMAL%s)',
    async (priority) => {
      const files = filesOf();
      const copy = directory.file('copy.img');
      await using server = await serve(files, '--port', '0');
      const { port } = new URL(server.uri);
      const source = `driver=nbd,host=localhost,port=${port},tls-creds=tls0`;
      const common = `id=tls0,dir=${files},endpoint=client,priority=NORMAL${priority}`;
      for (const credentials of [
        `tls-creds-x509,${common}`,
        `tls-creds-psk,${common},username=${PSK_USER}`,
      ]) {
        const info = await run(['qemu-img', 'info', '--object', credentials, '--image-opts', source]);
        expect(info).toContain('virtual size: 64 MiB');
        await run([
          'qemu-img',
          'convert',
          '--object',
          credentials,
          '--image-opts',
          source,
          '-O',
          'raw',
          copy,
        ]);
        await expectSameContent(copy, image);
        await rm(copy);
      }
      await server.stop();
      const versions = new Set(server.log.flatMap(({ protocol }) => protocol ?? []));
      expect([...versions]).toEqual([priority === '' ? 'TLSv1.3' : 'TLSv1.2']);
      expect(warnings(server)).toEqual([]);
    },
  );

  test('certificates alone and keys alone are enough', async () => {
    const files = filesOf();
    await using certified = await startServer([
      'file',
      image,
      '--tls',
      'require',
      '--tls-certificates',
      files,
    ]);
    await run(['nbdinfo', withCertificates(certified.uri, files)]);
    await certified.stop();
    await using keyed = await startServer(['file', image, '--tls', 'require', '--tls-psk', psk(files)]);
    await run(['nbdinfo', withPsk(keyed.uri, psk(files))]);
    expect((await attempt(['nbdinfo', withCertificates(keyed.uri, files)])).code).not.toBe(0);
  });
});

test('nbdcopy copies in both directions over TLS with four connections', async () => {
  const [target, copy] = [directory.file('target.img'), directory.file('copy.img')];
  await createImage(target, SIZE);
  await using server = await startServer([
    'file',
    target,
    '--port',
    '0',
    '--tls',
    'require',
    '--tls-certificates',
    ours,
  ]);
  const uri = withCertificates(server.uri, ours);
  const four = ['--connections=4', '--threads=4'];
  await run(['nbdcopy', ...four, '--flush', image, uri]);
  await expectSameContent(target, image);
  await run(['nbdcopy', ...four, uri, copy]);
  await expectSameContent(copy, image);
  await server.stop();
  expect(server.log.filter(({ msg }) => msg === 'TLS is in use').length).toBeGreaterThanOrEqual(8);
  expect(warnings(server)).toEqual([]);
});

describe('who gets in', () => {
  test('with --tls-verify-peer a client of the CA, and none without a certificate or of another CA', async () => {
    await using server = await serve(ours, '--tls-verify-peer', '--port', '0');
    await run(['nbdinfo', withCertificates(server.uri, ours)]);
    await run(['nbdinfo', withPsk(server.uri, psk(ours))]);
    await expect
      .poll(() => server.log.filter(({ msg }) => msg === 'Connection closed').length, LOGGED)
      .toBe(2);
    expect(warnings(server)).toEqual([]);

    const [bare, foreign] = [directory.file('bare'), directory.file('foreign')];
    await mkdir(bare);
    await copyFile(join(ours, 'ca-cert.pem'), join(bare, 'ca-cert.pem'));
    expect((await attempt(['nbdinfo', withCertificates(server.uri, bare)])).code).not.toBe(0);
    // Trusts our CA, but has a certificate of another.
    await mkdir(foreign);
    await copyFile(join(ours, 'ca-cert.pem'), join(foreign, 'ca-cert.pem'));
    await copyFile(join(gnutls, 'client-cert.pem'), join(foreign, 'client-cert.pem'));
    await copyFile(join(gnutls, 'client-key.pem'), join(foreign, 'client-key.pem'));
    expect((await attempt(['nbdinfo', withCertificates(server.uri, foreign)])).code).not.toBe(0);
    await server.stop();
    expect(warnings(server)).toHaveLength(2);
    for (const line of warnings(server)) expect(line).toMatch(/^The TLS handshake failed: /);
  });

  test('a certificate in ca-crl.pem is refused', async () => {
    const files = directory.file('revoking');
    await gnutlsInit(files);
    await revoke(files, 'client-cert.pem');
    await using server = await serve(files, '--tls-verify-peer');
    expect((await attempt(['nbdinfo', withCertificates(server.uri, files)])).code).not.toBe(0);
    const line = await eventually('it is in the log', () => warnings(server)[0]);
    expect(line).toBe('The TLS handshake failed: certificate revoked');
  });

  test('a client that does not trust the CA does not stay, and is one line in the log', async () => {
    // libnbd verifies no certificate on a Unix socket: it has no name to compare.
    await using server = await serve(ours, '--port', '0');
    expect((await attempt(['nbdinfo', withCertificates(server.uri, gnutls)])).code).not.toBe(0);
    expect(await eventually('it is in the log', () => warnings(server)[0])).toMatch(
      /^The TLS handshake failed: /,
    );
    await server.stop();
    expect(warnings(server)).toHaveLength(1);
  });

  test('with --tls allow everybody, and the URI promises no TLS', async () => {
    await using server = await startServer(['file', image, '--tls', 'allow', '--tls-certificates', ours]);
    expect(server.uri).toMatch(/^nbd\+unix:/);
    const plain = JSON.parse(await run(['nbdinfo', '--json', server.uri])) as { readonly TLS: boolean };
    expect(plain.TLS).toBe(false);
    const uri = withCertificates(server.uri.replace('nbd+unix', 'nbds+unix'), ours);
    const secured = JSON.parse(await run(['nbdinfo', '--json', uri])) as { readonly TLS: boolean };
    expect(secured.TLS).toBe(true);
  });

  test('with --tls require nobody in plaintext', async () => {
    await using server = await serve(ours);
    await using client = await RawClient.connect(server);
    await client.receive(18);
    await client.send(Buffer.concat([CLIENT_FLAGS, encodeGo('')]));
    const header = await client.receive(20);
    expect(header.readUInt32BE(12)).toBe(ERR_TLS_REQD);
    const { code } = await attempt(['nbdinfo', server.uri.replace('nbds+unix', 'nbd+unix')]);
    expect(code).not.toBe(0);
  });
});

describe('beyond loopback', () => {
  const beyond = ['--bind', '0.0.0.0', '--port', '0'];

  test('--tls require is enough', async () => {
    await using server = await serve(ours, ...beyond);
    const uri = server.uri.replace('0.0.0.0', 'localhost');
    await run(['nbdinfo', withCertificates(uri, ours)]);
  });

  test('--tls allow is as good as nothing', async () => {
    const args = ['file', image, '--tls', 'allow', '--tls-certificates', ours, ...beyond];
    expect(await expectRefusal(args)).toContain('--allow-plaintext');
    await using server = await startServer([...args, '--allow-plaintext']);
    expect(server.uri).toMatch(/^nbd:/);
  });
});

test('a server that lacks one of its files does not start, and makes no image', async () => {
  const files = directory.file('lacking');
  await gnutlsInit(files);
  await rm(join(files, 'server-key.pem'));
  const created = directory.file('never.img');
  const words = [
    'file',
    created,
    '--create',
    '1M',
    '--tls',
    'require',
    '--tls-certificates',
    files,
    '-U',
    '-',
  ];
  expect(await expectRefusal(words)).toBe(
    `nbd-serve: Cannot read "${join(files, 'server-key.pem')}": ENOENT`,
  );
  await copyFile(join(ours, 'server-key.pem'), join(files, 'server-key.pem'));
  expect(await expectRefusal(words)).toContain('it is not the key of');
  expect((await attempt(['test', '-e', created])).code).toBe(1);
});

test.each([1, 2])(
  'SIGHUP: new connections get new certificates, old ones go on; broken files change nothing, %i threads',
  async (threads) => {
    const files = directory.file(`changing-${threads}`);
    await gnutlsInit(files);
    await using server = await serve(files, '--port', '0', '--threads', String(threads));
    const before = directory.file(`before-${threads}`);
    await mkdir(before);
    await copyFile(join(files, 'ca-cert.pem'), join(before, 'ca-cert.pem'));
    await using old = await RawClient.connect(server);
    await old.receive(18);

    await writeFile(join(files, 'server-cert.pem'), 'rubbish');
    server.signal('SIGHUP');
    const failure = await eventually('the failure is in the log', () => warnings(server)[0]);
    expect(failure).toContain(`Cannot use "${join(files, 'server-cert.pem')}"`);
    await run(['nbdinfo', withCertificates(server.uri, before)]);

    await gnutlsInit(files);
    server.signal('SIGHUP');
    await eventually('the files were read', () => server.log.find(({ msg }) => msg?.includes('read again')));
    await run(['nbdinfo', withCertificates(server.uri, files)]);
    expect((await attempt(['nbdinfo', withCertificates(server.uri, before)])).code).not.toBe(0);
    // A second connection that stays: the next one goes to the first one's thread.
    await using _other = await RawClient.connect(server);
    await run(['nbdinfo', withCertificates(server.uri, files)]);
    await run(['nbdinfo', withPsk(server.uri, psk(files))]);
    // It was there before either change.
    await old.send(Buffer.concat([CLIENT_FLAGS, encodeOption(3)]));
    expect((await old.receive(20)).readUInt32BE(12)).toBe(ERR_TLS_REQD);
  },
);

describe('a hostile client', () => {
  test('plaintext behind STARTTLS is cut and never answered', async () => {
    await using server = await serve(ours);
    await using client = await RawClient.connect(server);
    await client.receive(18);
    await client.send(Buffer.concat([CLIENT_FLAGS, STARTTLS, encodeGo('')]));
    await expect(client.receive(1)).rejects.toThrow('closed the connection');
    expect(await eventually('it is in the log', () => warnings(server)[0])).toContain(
      'plaintext behind STARTTLS',
    );
  });

  test('rubbish in place of a ClientHello is one line in the log', async () => {
    await using server = await serve(ours);
    await using client = await RawClient.connect(server);
    await client.receive(18);
    await client.send(Buffer.concat([CLIENT_FLAGS, STARTTLS]));
    await client.receive(20);
    await client.send(Buffer.alloc(4096, 'rubbish'));
    expect(await eventually('it is in the log', () => warnings(server)[0])).toMatch(
      /^The TLS handshake failed: /,
    );
    await server.stop();
    expect(warnings(server)).toHaveLength(1);
  });

  test('a handshake that stalls in TLS is cut at the deadline and frees its descriptor', async () => {
    await using server = await serve(ours, '--handshake-timeout', '1', '--threads', '1');
    const before = await server.descriptorCount();
    const clients = await Promise.all(Array.from({ length: 20 }, () => RawClient.connect(server)));
    for (const client of clients) {
      await client.receive(18);
      await client.send(Buffer.concat([CLIENT_FLAGS, STARTTLS]));
      await client.receive(20);
    }
    await run(['nbdinfo', withCertificates(server.uri, ours)]);
    for (const client of clients) {
      await expect(client.receive(1)).rejects.toThrow('closed the connection');
      await client.leave();
    }
    const lines = await eventually('all of them are in the log', () =>
      warnings(server).length >= clients.length ? warnings(server) : undefined,
    );
    expect(lines).toEqual(clients.map(() => 'No export was opened within 1 s; the connection is cut'));
    await eventually('all descriptors are free again', async () =>
      (await server.descriptorCount()) <= before ? true : undefined,
    );
  });
});

/** OpenSSL tells an end with close_notify from a bare FIN when it is asked not to hide it; Node does not. */
const CLOSE_NOTIFY = `
import socket, ssl, struct, time, urllib.parse
path = urllib.parse.parse_qs(urllib.parse.urlparse(uri).query)['socket'][0]
raw = socket.socket(socket.AF_UNIX)
raw.connect(path)
def take(s, count):
    data = b''
    while len(data) < count:
        piece = s.recv(count - len(data))
        assert piece, 'the server closed the connection'
        data += piece
    return data
def option(number, data=b''):
    return b'IHAVEOPT' + struct.pack('>II', number, len(data)) + data
take(raw, 18)
raw.sendall(struct.pack('>I', 3) + option(5))
assert take(raw, 20)[12:16] == struct.pack('>I', 1)
tls = ssl.create_default_context(cafile=arguments[0]).wrap_socket(
    raw, server_hostname='localhost', suppress_ragged_eofs=False)
tls.sendall(option(7, struct.pack('>IH', 0, 0)))
while take(tls, 20)[12:16] != struct.pack('>I', 1):
    take(tls, 12)
if arguments[1] == 'DISC':
    tls.sendall(struct.pack('>IHHQQI', 0x25609513, 0, 2, 0, 0, 0))
else:
    os.kill(int(arguments[1]), 15)
assert tls.recv(1) == b'', 'ssl.SSLEOFError would be raised without close_notify'
print('close_notify')
`;

test('DISC and a shutdown end with close_notify', async () => {
  await using server = await serve(ours);
  const ca = join(ours, 'ca-cert.pem');
  expect(await python(server.uri, CLOSE_NOTIFY, [ca, 'DISC'])).toBe('close_notify\n');
  expect(await python(server.uri, CLOSE_NOTIFY, [ca, String(server.pid)])).toBe('close_notify\n');
  expect((await server.ended()).code).toBe(0);
});
