/** The TLS files: which of them are taken, and what is said of the others. */
import { generateKeyPairSync } from 'node:crypto';
import { chmodSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import type { ConnectionOptions } from 'node:tls';
import { beforeAll, describe, expect, test } from 'vitest';
import { loadTlsMaterial, TlsCredentials, TlsFileError, tlsContext } from '../../src/server/tls.ts';
import { happens } from '../native/stream-pair.ts';
import { handshake } from '../native/tls-pair.ts';
import { type TemporaryDirectory, temporaryDirectory } from '../support/temporary-directory.ts';
import { FakeLog } from './fake-log.ts';
import { type Authority, makeAuthority, PSK_KEY, PSK_USER, writeTlsFiles } from './tls-files.ts';

let ours: Authority;
let foreign: Authority;

beforeAll(async () => {
  [ours, foreign] = await Promise.all([makeAuthority(), makeAuthority()]);
}, 120_000);

async function directoryOfFiles(): Promise<TemporaryDirectory> {
  const directory = await temporaryDirectory();
  writeTlsFiles(directory.path, ours);
  return directory;
}

async function refusalOf(certificates: string | undefined, psk?: string): Promise<string> {
  const error: unknown = await loadTlsMaterial({ certificates, psk, isPeerVerified: false }).then(
    () => undefined,
    (reason: unknown) => reason,
  );
  if (!(error instanceof TlsFileError)) throw new Error(`Expected a TlsFileError, got ${String(error)}`);
  expect(error.message).not.toContain('\n');
  return error.message;
}

test('certificates are loaded with TLS 1.2 and 1.3 and nothing older', async () => {
  await using directory = await directoryOfFiles();
  const files = { certificates: directory.path, psk: undefined, isPeerVerified: true };
  const context = tlsContext(await loadTlsMaterial(files));
  const known = { cert: ours.client.certificate, key: ours.client.key };
  for (const version of ['TLSv1.2', 'TLSv1.3'] as const) {
    const versions = { minVersion: version, maxVersion: version };
    expect(await handshake(context, { ...versions, ...known })).toMatchObject({ protocol: version });
    expect(await handshake(context, versions)).toMatchObject({
      failure: 'peer did not return a certificate',
    });
  }
  const older = { minVersion: 'TLSv1.1', maxVersion: 'TLSv1.1', ciphers: 'DEFAULT@SECLEVEL=0' } as const;
  expect(await handshake(context, { ...older, ...known })).toMatchObject({ failure: 'unsupported protocol' });
});

const KEY: ConnectionOptions = {
  pskCallback: () => ({ psk: Buffer.from(PSK_KEY, 'hex'), identity: PSK_USER }),
  checkServerIdentity: () => undefined,
  ciphers: 'ECDHE-PSK-CHACHA20-POLY1305:TLS_AES_128_GCM_SHA256',
};

test('what was read can be handed to another thread', async () => {
  await using directory = await directoryOfFiles();
  const files = { certificates: directory.path, psk: directory.file('keys.psk'), isPeerVerified: true };
  const material = structuredClone(await loadTlsMaterial(files));
  expect(await handshake(tlsContext(material), KEY)).toMatchObject({ failure: '', protocol: 'TLSv1.3' });
});

test('keys are loaded with the ciphers that use them', async () => {
  await using directory = await directoryOfFiles();
  const files = { certificates: undefined, psk: directory.file('keys.psk'), isPeerVerified: false };
  const context = tlsContext(await loadTlsMaterial(files));
  expect(await handshake(context, { ...KEY, maxVersion: 'TLSv1.2' })).toMatchObject({
    protocol: 'TLSv1.2',
    cipher: 'TLS_ECDHE_PSK_WITH_CHACHA20_POLY1305_SHA256',
  });
  const stranger = { ...KEY, pskCallback: () => ({ psk: Buffer.alloc(16), identity: 'mallory' }) };
  expect(await handshake(context, { ...stranger, maxVersion: 'TLSv1.2' })).toMatchObject({
    failure: 'psk identity not found',
  });
  expect(await handshake(context, { maxVersion: 'TLSv1.2' })).toMatchObject({
    failure: 'no shared cipher',
  });
});

/** Without root's right to read everything; for other users nothing changes. */
async function asNobody<T>(work: () => Promise<T>): Promise<T> {
  const isRoot = process.getuid?.() === 0;
  if (isRoot) process.seteuid?.(65_534);
  try {
    return await work();
  } finally {
    if (isRoot) process.seteuid?.(0);
  }
}

describe('one line names the file', () => {
  test.each(['ca-cert.pem', 'server-cert.pem', 'server-key.pem', 'keys.psk'])(
    '%s that is missing',
    async (name) => {
      await using directory = await directoryOfFiles();
      rmSync(directory.file(name));
      expect(await refusalOf(directory.path, directory.file('keys.psk'))).toBe(
        `Cannot read "${directory.file(name)}": ENOENT`,
      );
    },
  );

  test.each(['ca-cert.pem', 'server-cert.pem', 'server-key.pem', 'keys.psk', 'ca-crl.pem'])(
    '%s that is rubbish',
    async (name) => {
      await using directory = await directoryOfFiles();
      writeFileSync(directory.file(name), 'rubbish\n');
      expect(await refusalOf(directory.path, directory.file('keys.psk'))).toContain(
        `Cannot use "${directory.file(name)}": `,
      );
    },
  );

  test.each(['ca-cert.pem', 'server-key.pem', 'ca-crl.pem'])('%s that is a directory', async (name) => {
    await using directory = await directoryOfFiles();
    await using other = await temporaryDirectory();
    rmSync(directory.file(name), { force: true });
    symlinkSync(other.path, directory.file(name));
    expect(await refusalOf(directory.path)).toBe(`Cannot read "${directory.file(name)}": EISDIR`);
  });

  test('a key that may not be read', async () => {
    await using directory = await directoryOfFiles();
    chmodSync(directory.file('server-key.pem'), 0);
    chmodSync(directory.path, 0o755);
    const refusal = await asNobody(() => refusalOf(directory.path));
    expect(refusal).toBe(`Cannot read "${directory.file('server-key.pem')}": EACCES`);
  });

  test('a key of another certificate', async () => {
    await using directory = await directoryOfFiles();
    writeFileSync(directory.file('server-key.pem'), foreign.server.key);
    expect(await refusalOf(directory.path)).toBe(
      `Cannot use "${directory.file('server-key.pem')}": it is not the key of "${directory.file('server-cert.pem')}"`,
    );
  });

  test('a key that needs a passphrase', async () => {
    await using directory = await directoryOfFiles();
    const { privateKey } = generateKeyPairSync('ec', {
      namedCurve: 'P-256',
      publicKeyEncoding: { type: 'spki', format: 'pem' },
      privateKeyEncoding: { type: 'pkcs8', format: 'pem', cipher: 'aes-256-cbc', passphrase: 'secret' },
    });
    writeFileSync(directory.file('server-key.pem'), privateKey);
    expect(await refusalOf(directory.path)).toContain(`Cannot use "${directory.file('server-key.pem')}": `);
  });
});

describe('reload', () => {
  async function load(directory: TemporaryDirectory): Promise<{ credentials: TlsCredentials; log: FakeLog }> {
    const log = new FakeLog();
    const files = { certificates: directory.path, psk: directory.file('keys.psk'), isPeerVerified: false };
    return { credentials: await TlsCredentials.load(files, log), log };
  }

  test('new connections get the new files', async () => {
    await using directory = await directoryOfFiles();
    const { credentials, log } = await load(directory);
    const before = credentials.context;
    // One for all connections: each is a parsed key and certificates.
    expect(credentials.context).toBe(before);
    const trust = (ca: string): ConnectionOptions => ({
      ca,
      servername: 'localhost',
      rejectUnauthorized: true,
    });
    const old = await handshake(before, trust(ours.ca.certificate));
    writeTlsFiles(directory.path, foreign);
    await credentials.reload();
    expect(credentials.context).not.toBe(before);
    const next = await handshake(credentials.context, trust(foreign.ca.certificate));
    expect(next).toMatchObject({ failure: '', clientError: undefined });
    // Those that are there go on as they were.
    old.tls.write('still here');
    old.stream.start();
    await happens('it arrives', () => old.received.join('') === 'still here');
    expect(log.lines).toMatchObject([{ level: 'info', message: 'The TLS files were read again' }]);
  });

  test('a bad file changes nothing and is one line in the log', async () => {
    await using directory = await directoryOfFiles();
    const { credentials, log } = await load(directory);
    const { context, material } = credentials;
    writeTlsFiles(directory.path, foreign);
    writeFileSync(directory.file('keys.psk'), `${PSK_USER}:not hexadecimal\n`);
    await credentials.reload();
    expect(credentials.context).toBe(context);
    expect(credentials.material).toBe(material);
    expect(log.lines).toHaveLength(1);
    expect(log.at('error')[0]?.message).toContain(`Cannot use "${directory.file('keys.psk')}": line 1`);
  });

  test('the last of several calls decides', async () => {
    await using directory = await directoryOfFiles();
    const { credentials } = await load(directory);
    const first = credentials.reload();
    writeTlsFiles(directory.path, foreign);
    await Promise.all([first, credentials.reload()]);
    expect(credentials.material.certificates?.cert).toBe(foreign.server.certificate);
  });
});
