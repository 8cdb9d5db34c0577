import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { run } from './command.ts';
import { PROGRAM } from './server.ts';
import type { TemporaryDirectory } from './temporary-directory.ts';

export const PSK_USER = 'alice';

/** Makes certificates and a pre-shared key with the program's own command. Takes seconds. */
export async function tlsInit(directory: string): Promise<void> {
  await run([...PROGRAM, 'tls-init', directory, '--psk', PSK_USER]);
}

/** The same files, made by GnuTLS. */
export async function gnutlsInit(directory: string): Promise<void> {
  await mkdir(directory, { recursive: true });
  const file = (name: string): string => join(directory, name);
  const templates = {
    ca: 'cn = GnuTLS CA\nca\ncert_signing_key\ncrl_signing_key\nexpiration_days = 2\n',
    server:
      'cn = localhost\ndns_name = localhost\nip_address = 127.0.0.1\ntls_www_server\nsigning_key\n' +
      'encryption_key\nexpiration_days = 2\n',
    client: 'cn = client\ntls_www_client\nsigning_key\nencryption_key\nexpiration_days = 2\n',
  };
  for (const [name, template] of Object.entries(templates)) {
    const [key, certificate, info] = [
      file(`${name}-key.pem`),
      file(`${name}-cert.pem`),
      file(`${name}.info`),
    ];
    await writeFile(info, template);
    await run(['certtool', '--generate-privkey', '--key-type=ecdsa', '--curve=secp256r1', '--outfile', key]);
    const how =
      name === 'ca'
        ? ['--generate-self-signed']
        : [
            '--generate-certificate',
            '--load-ca-certificate',
            file('ca-cert.pem'),
            '--load-ca-privkey',
            file('ca-key.pem'),
          ];
    await run(['certtool', ...how, '--load-privkey', key, '--template', info, '--outfile', certificate]);
  }
  await run(['psktool', '--username', PSK_USER, '--pskfile', file('keys.psk')]);
}

/** Withdraws a certificate of `gnutlsInit`: writes ca-crl.pem. */
export async function revoke(directory: string, name: string): Promise<void> {
  const file = (each: string): string => join(directory, each);
  await writeFile(file('crl.info'), 'crl_next_update = 2\ncrl_number = 1\n');
  await run([
    ...(['certtool', '--generate-crl', '--load-ca-privkey', file('ca-key.pem')] as [string, ...string[]]),
    ...['--load-ca-certificate', file('ca-cert.pem'), '--load-certificate', file(name)],
    ...['--template', file('crl.info'), '--outfile', file('ca-crl.pem')],
  ]);
}

/** The URI of a server with what a libnbd client needs to come in. */
export function withCertificates(uri: string, directory: TemporaryDirectory | string): string {
  const path = typeof directory === 'string' ? directory : directory.path;
  return `${uri}${uri.includes('?') ? '&' : '?'}tls-certificates=${path}`;
}

export function withPsk(uri: string, file: string, user = PSK_USER): string {
  return `${uri.replace('://', `://${user}@`)}${uri.includes('?') ? '&' : '?'}tls-psk-file=${file}`;
}
