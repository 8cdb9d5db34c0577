/** Certificates and keys for tests, in the files that the server reads. */
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { type Certified, makeCertificates } from '../../src/cli/certificates.ts';
import { TlsCredentials, type TlsSetup } from '../../src/server/tls.ts';
import { FakeLog } from './fake-log.ts';

export interface Authority {
  readonly ca: Certified;
  readonly server: Certified;
  readonly client: Certified;
}

export const PSK_USER = 'alice';
export const PSK_KEY = '00112233445566778899aabbccddeeff';

/** Takes seconds: three RSA keys. */
export function makeAuthority(): Promise<Authority> {
  return makeCertificates(['localhost', '127.0.0.1'], 2);
}

export function writeTlsFiles(directory: string, { ca, server }: Authority): void {
  writeFileSync(join(directory, 'ca-cert.pem'), ca.certificate);
  writeFileSync(join(directory, 'server-cert.pem'), server.certificate);
  writeFileSync(join(directory, 'server-key.pem'), server.key);
  writeFileSync(join(directory, 'keys.psk'), `${PSK_USER}:${PSK_KEY}\n`);
}

/** What `writeTlsFiles` has written, as connections use it. */
export async function loadSetup(
  directory: string,
  mode: TlsSetup['mode'],
  isPeerVerified = false,
): Promise<TlsSetup> {
  const files = { certificates: directory, psk: join(directory, 'keys.psk'), isPeerVerified };
  return { mode, credentials: await TlsCredentials.load(files, new FakeLog()) };
}
