/** Certificates that other libraries take, and files that nobody else may read. */
import { createPrivateKey, X509Certificate } from 'node:crypto';
import { existsSync, readdirSync, readFileSync, statSync, symlinkSync, writeFileSync } from 'node:fs';
import { hostname } from 'node:os';
import { expect, test } from 'vitest';
import { parsePskFile } from '../../src/server/psk-file.ts';
import { loadTlsMaterial } from '../../src/server/tls.ts';
import { type TemporaryDirectory, temporaryDirectory } from '../support/temporary-directory.ts';
import { nbdServe } from './captured-output.ts';

const NAMES = [
  'ca-cert.pem',
  'ca-key.pem',
  'client-cert.pem',
  'client-key.pem',
  'server-cert.pem',
  'server-key.pem',
];

function certificate(directory: TemporaryDirectory, name: string): X509Certificate {
  return new X509Certificate(readFileSync(directory.file(name)));
}

test('makes a CA, a server and a client that belong together', { timeout: 120_000 }, async () => {
  await using directory = await temporaryDirectory();
  const { code, stdout, stderr } = await nbdServe('tls-init', directory.path);
  expect({ code, stderr }).toEqual({ code: 0, stderr: '' });
  expect(stdout).toContain(`--tls-certificates ${directory.path}`);
  expect(readdirSync(directory.path).sort()).toEqual(NAMES);

  const ca = certificate(directory, 'ca-cert.pem');
  expect(ca.ca).toBe(true);
  for (const name of ['server', 'client']) {
    const leaf = certificate(directory, `${name}-cert.pem`);
    expect(leaf.ca).toBe(false);
    expect(leaf.checkIssued(ca) && leaf.verify(ca.publicKey)).toBe(true);
    const key = createPrivateKey(readFileSync(directory.file(`${name}-key.pem`)));
    expect(leaf.checkPrivateKey(key)).toBe(true);
    expect(statSync(directory.file(`${name}-key.pem`)).mode & 0o777).toBe(0o600);
  }
  expect(statSync(directory.file('ca-key.pem')).mode & 0o777).toBe(0o600);
  const serials = ['ca', 'server', 'client'].map(
    (name) => certificate(directory, `${name}-cert.pem`).serialNumber,
  );
  expect(new Set(serials).size).toBe(3);
  // What it has made is what the server takes.
  await loadTlsMaterial({ certificates: directory.path, psk: undefined, isPeerVerified: true });
});

test('names, days and a pre-shared key are as asked for', { timeout: 120_000 }, async () => {
  await using directory = await temporaryDirectory();
  const words = ['--host', 'disk.example', '--host', '192.0.2.7', '--host', '2001:db8::7', '--days', '10000'];
  const { code } = await nbdServe('tls-init', directory.path, ...words, '--psk', 'alice');
  expect(code).toBe(0);
  const server = certificate(directory, 'server-cert.pem');
  for (const host of ['localhost', 'disk.example', hostname()]) expect(server.checkHost(host)).toBe(host);
  for (const address of ['127.0.0.1', '::1', '192.0.2.7', '2001:db8::7']) {
    expect(server.checkIP(address), address).toBe(address);
  }
  expect(server.checkHost('other.example')).toBeUndefined();
  const days = (Date.parse(server.validTo) - Date.now()) / 86_400_000;
  expect(days).toBeGreaterThan(9999);
  expect(days).toBeLessThan(10_001);

  const keys = parsePskFile(readFileSync(directory.file('keys.psk')));
  if (typeof keys === 'string') throw new Error(keys);
  expect(keys.get('alice')).toHaveLength(32);
  expect(statSync(directory.file('keys.psk')).mode & 0o777).toBe(0o600);
});

test('makes the directory, for its owner only', { timeout: 120_000 }, async () => {
  await using directory = await temporaryDirectory();
  const { code } = await nbdServe('tls-init', directory.file('new'));
  expect(code).toBe(0);
  expect(statSync(directory.file('new')).mode & 0o777).toBe(0o700);
});

test('overwrites nothing, and then leaves nothing behind', { timeout: 120_000 }, async () => {
  await using directory = await temporaryDirectory();
  writeFileSync(directory.file('server-key.pem'), 'precious');
  const { code, stdout, stderr } = await nbdServe('tls-init', directory.path);
  expect({ code, stdout }).toEqual({ code: 1, stdout: '' });
  expect(stderr).toBe(`nbd-serve: Refusing to overwrite "${directory.file('server-key.pem')}"\n`);
  expect(readdirSync(directory.path)).toEqual(['server-key.pem']);
  expect(readFileSync(directory.file('server-key.pem'), 'utf8')).toBe('precious');
});

test('writes through no link', { timeout: 120_000 }, async () => {
  await using directory = await temporaryDirectory();
  symlinkSync(directory.file('elsewhere'), directory.file('ca-key.pem'));
  const { code, stderr } = await nbdServe('tls-init', directory.path);
  expect(code).toBe(1);
  expect(stderr).toContain('Refusing to overwrite');
  expect(existsSync(directory.file('elsewhere'))).toBe(false);
});

test('says why it cannot write', { timeout: 120_000 }, async () => {
  await using directory = await temporaryDirectory();
  writeFileSync(directory.file('file'), '');
  const { code, stderr } = await nbdServe('tls-init', directory.file('file/below'));
  expect(code).toBe(1);
  expect(stderr).toBe(`nbd-serve: Cannot write "${directory.file('file/below')}": ENOTDIR\n`);
});
