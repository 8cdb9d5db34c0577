/** `nbd-serve tls-init <directory>`: all that a server and its clients need for TLS, in one go. */
import { randomBytes } from 'node:crypto';
import { mkdirSync, rmSync, writeFileSync } from 'node:fs';
import { isIP } from 'node:net';
import { hostname } from 'node:os';
import { join, resolve } from 'node:path';
import { Command, InvalidArgumentError } from '@commander-js/extra-typings';
import { PSK_USERNAME_BYTES_MAX } from '../server/psk-file.ts';
import { integerBetween } from './argument-parsers.ts';
import { CommandError } from './command-error.ts';
import { encodePath } from './uri.ts';

/** Longer ones are refused by some clients (Apple's, since 2020), and outlive everybody's memory of them. */
const DAYS_DEFAULT = 825;
const DAYS_MAX = 36_500;

const PSK_BYTES = 32;
const LOCAL_HOSTS = ['localhost', '127.0.0.1', '::1'];

/** RFC 1123, and the underscore that machines in the wild have; a leading "*." is a wildcard. */
const HOST_NAME = /^(?:\*\.)?[a-z0-9_](?:[a-z0-9_-]*[a-z0-9_])?(?:\.[a-z0-9_](?:[a-z0-9_-]*[a-z0-9_])?)*$/i;

interface NewFile {
  readonly name: string;
  readonly text: string;
  readonly isSecret: boolean;
}

export function tlsInitCommand() {
  return new Command('tls-init')
    .description('make a CA and certificates for a server and a client, as libnbd and QEMU expect them')
    .argument('<directory>', 'where to write them; no file is overwritten')
    .option('--host <name>', 'another name or address of the server (repeatable)', collectHost, [])
    .option('--days <count>', 'how long they are valid', integerBetween(1, DAYS_MAX), DAYS_DEFAULT)
    .option('--psk <username>', 'also write keys.psk, a pre-shared key for this client', pskUsername)
    .action(async (directory, { host, days, psk }) => {
      // Loaded here: no other command should pay for it.
      const { makeCertificates } = await import('./certificates.ts');
      const { ca, server, client } = await makeCertificates([...defaultHosts(), ...host], days);
      const files: NewFile[] = [
        { name: 'ca-cert.pem', text: ca.certificate, isSecret: false },
        { name: 'ca-key.pem', text: ca.key, isSecret: true },
        { name: 'server-cert.pem', text: server.certificate, isSecret: false },
        { name: 'server-key.pem', text: server.key, isSecret: true },
        { name: 'client-cert.pem', text: client.certificate, isSecret: false },
        { name: 'client-key.pem', text: client.key, isSecret: true },
      ];
      if (psk !== undefined) {
        const key = randomBytes(PSK_BYTES).toString('hex');
        files.push({ name: 'keys.psk', text: `${psk}:${key}\n`, isSecret: true });
      }
      writeFiles(resolve(directory), files);
      process.stdout.write(nextSteps(resolve(directory), host[0] ?? 'localhost', psk));
    });
}

function defaultHosts(): string[] {
  return isHost(hostname()) ? [...LOCAL_HOSTS, hostname()] : LOCAL_HOSTS;
}

function isHost(text: string): boolean {
  return isIP(text) !== 0 || (text.length <= 253 && HOST_NAME.test(text));
}

function collectHost(text: string, before: string[]): string[] {
  if (!isHost(text)) {
    throw new InvalidArgumentError('Give a host name or an IP address.');
  }
  return [...before, text];
}

function pskUsername(text: string): string {
  // A leading "#" would mean hexadecimal to GnuTLS, a colon ends the name.
  if (!/^[^:#\p{Cc}][^:\p{Cc}]*$/u.test(text) || Buffer.byteLength(text) > PSK_USERNAME_BYTES_MAX) {
    throw new InvalidArgumentError(
      `Give at most ${PSK_USERNAME_BYTES_MAX} bytes without a colon, a control character or a leading "#".`,
    );
  }
  return text;
}

/** Writes all of them or none. */
function writeFiles(directory: string, files: readonly NewFile[]): void {
  const written: string[] = [];
  try {
    mkdirSync(directory, { recursive: true, mode: 0o700 });
    for (const { name, text, isSecret } of files) {
      const path = join(directory, name);
      // Exclusive: whatever stands there, also a link to nowhere, is somebody's.
      writeFileSync(path, text, { flag: 'wx', mode: isSecret ? 0o600 : 0o644 });
      written.push(path);
    }
  } catch (error) {
    for (const path of written) {
      rmSync(path, { force: true });
    }
    const { code, path = directory } = error as NodeJS.ErrnoException;
    throw new CommandError(
      code === 'EEXIST' ? `Refusing to overwrite "${path}"` : `Cannot write "${path}": ${code ?? error}`,
    );
  }
}

function nextSteps(directory: string, host: string, psk: string | undefined): string {
  const lines = [
    `Made a CA and certificates for a server and a client in ${directory}.`,
    'Keep ca-key.pem where no server is; clients need ca-cert.pem, client-cert.pem and client-key.pem.',
    'Server (--bind 0.0.0.0 for clients on other machines):',
    `  nbd-serve file disk.img --tls require --tls-certificates ${directory} --tls-verify-peer`,
    `Client: nbdinfo 'nbds://${host}/?tls-certificates=${encodePath(directory)}'`,
  ];
  if (psk !== undefined) {
    const file = join(directory, 'keys.psk');
    lines.push(
      `Server: nbd-serve file disk.img --tls require --tls-psk ${file}`,
      `Client: nbdinfo 'nbds://${encodeURIComponent(psk)}@${host}/?tls-psk-file=${encodePath(file)}'`,
    );
  }
  return `${lines.join('\n')}\n`;
}
