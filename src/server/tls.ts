/**
 * What the server proves itself with: certificates in the file names of libnbd and QEMU, pre-shared keys in the
 * file of GnuTLS's psktool, or both. Everything is read and checked before it counts, so that a bad file is a
 * line with its name and never a client's failed handshake.
 */
import { createPrivateKey, X509Certificate } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { createSecureContext } from 'node:tls';
import type { Logger } from '../log.ts';
import { native, type TlsContext } from '../native/binding.ts';
import { parsePskFile } from './psk-file.ts';

export interface TlsFiles {
  /** The directory of ca-cert.pem, server-cert.pem, server-key.pem and, if there is one, ca-crl.pem. */
  readonly certificates: string | undefined;
  /** Lines of `username:hexkey`. */
  readonly psk: string | undefined;
  /** Clients without a certificate of ca-cert.pem are turned away, unless they have a pre-shared key. */
  readonly isPeerVerified: boolean;
}

/** A file that cannot be used; the message is one line that names it. */
export class TlsFileError extends Error {
  override readonly name = 'TlsFileError';
}

/** Of TLS 1.3. AES-GCM first: it costs least with the processor's help. */
const SUITES = ['TLS_AES_128_GCM_SHA256', 'TLS_AES_256_GCM_SHA384', 'TLS_CHACHA20_POLY1305_SHA256'];

/** Of TLS 1.2, in the same order. All of them have forward secrecy. */
const CERTIFICATE_CIPHERS = [
  'ECDHE-ECDSA-AES128-GCM-SHA256',
  'ECDHE-RSA-AES128-GCM-SHA256',
  'ECDHE-ECDSA-AES256-GCM-SHA384',
  'ECDHE-RSA-AES256-GCM-SHA384',
  'ECDHE-ECDSA-CHACHA20-POLY1305',
  'ECDHE-RSA-CHACHA20-POLY1305',
  'DHE-RSA-AES128-GCM-SHA256',
  'DHE-RSA-AES256-GCM-SHA384',
];

/**
 * For TLS 1.2; in TLS 1.3 OpenSSL asks the same callback, with the suites above. OpenSSL 3 has no ECDHE-PSK
 * with GCM. DHE-PSK only with 256 bits: with 128 its automatic parameters are as small as 1024 bits.
 */
const PSK_CIPHERS = ['ECDHE-PSK-CHACHA20-POLY1305', 'DHE-PSK-AES256-GCM-SHA384'];

/** What was read from the files: plain data, which can be handed to another thread. */
export interface TlsMaterial {
  /** PEM texts; undefined without certificates. */
  readonly certificates: CertificateTexts | undefined;
  /** The key of each username; undefined without pre-shared keys. */
  readonly pskKeys: ReadonlyMap<string, Uint8Array> | undefined;
  readonly isPeerVerified: boolean;
}

interface CertificateTexts {
  readonly ca: string;
  readonly cert: string;
  readonly key: string;
  readonly crl: string | undefined;
}

/** Reads and checks all files. Rejects with a `TlsFileError`. */
export async function loadTlsMaterial(files: TlsFiles): Promise<TlsMaterial> {
  const material = {
    certificates: files.certificates === undefined ? undefined : await loadCertificates(files.certificates),
    pskKeys: files.psk === undefined ? undefined : await loadPskKeys(files.psk),
    isPeerVerified: files.isPeerVerified,
  };
  try {
    tlsContext(material);
  } catch (error) {
    throw unusable(`in ${JSON.stringify(files.certificates ?? files.psk)}`, error);
  }
  return material;
}

/** For connections of this thread. Throws an Error with OpenSSL's reason. To make one takes a millisecond: it parses all texts. */
export function tlsContext({ certificates, pskKeys, isPeerVerified }: TlsMaterial): TlsContext {
  const { ca = '', cert = '', key = '', crl = '' } = certificates ?? {};
  const ciphers = [...CERTIFICATE_CIPHERS, ...(pskKeys === undefined ? [] : PSK_CIPHERS)];
  const context = new native.TlsContext(
    ca,
    cert,
    key,
    crl,
    ciphers.join(':'),
    SUITES.join(':'),
    isPeerVerified,
  );
  for (const [username, pskKey] of pskKeys ?? []) {
    context.add_psk(username, pskKey, 0, pskKey.length);
  }
  return context;
}

async function loadCertificates(directory: string): Promise<CertificateTexts> {
  const [caPath, certificatePath, keyPath, crlPath] = [
    join(directory, 'ca-cert.pem'),
    join(directory, 'server-cert.pem'),
    join(directory, 'server-key.pem'),
    join(directory, 'ca-crl.pem'),
  ];
  const ca = await read(caPath);
  const cert = await read(certificatePath);
  const key = await read(keyPath);
  const crl = await readIfThere(crlPath);
  parse(caPath, () => new X509Certificate(ca));
  const certificate = parse(certificatePath, () => new X509Certificate(cert));
  const privateKey = parse(keyPath, () => createPrivateKey(key));
  if (!certificate.checkPrivateKey(privateKey)) {
    throw new TlsFileError(`Cannot use "${keyPath}": it is not the key of "${certificatePath}"`);
  }
  if (crl !== undefined) {
    parse(crlPath, () => createSecureContext({ ca: [], crl }));
  }
  return { ca: String(ca), cert: String(cert), key: String(key), crl: crl && String(crl) };
}

async function loadPskKeys(path: string): Promise<ReadonlyMap<string, Uint8Array>> {
  const keys = parsePskFile(await read(path));
  if (typeof keys === 'string') {
    throw new TlsFileError(`Cannot use "${path}": ${keys}`);
  }
  return keys;
}

async function read(path: string): Promise<Buffer> {
  try {
    return await readFile(path);
  } catch (error) {
    throw new TlsFileError(`Cannot read "${path}": ${(error as NodeJS.ErrnoException).code ?? error}`);
  }
}

async function readIfThere(path: string): Promise<Buffer | undefined> {
  try {
    return await readFile(path);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') {
      return undefined;
    }
    throw new TlsFileError(`Cannot read "${path}": ${(error as NodeJS.ErrnoException).code ?? error}`);
  }
}

function parse<T>(path: string, parseText: () => T): T {
  try {
    return parseText();
  } catch (error) {
    throw unusable(`"${path}"`, error);
  }
}

function unusable(what: string, error: unknown): TlsFileError {
  const reason = error instanceof Error ? error.message.replaceAll(/\s+/g, ' ') : String(error);
  return new TlsFileError(`Cannot use ${what}: ${reason}`);
}

/** How a server's connections use TLS. */
export interface TlsSetup {
  readonly mode: 'allow' | 'require';
  readonly credentials: { readonly context: TlsContext };
}

/** The credentials of a server, as new connections find them. */
export class TlsCredentials {
  readonly #files: TlsFiles;
  readonly #log: Logger;
  #material: TlsMaterial;
  #context: TlsContext;
  #reloaded: Promise<void> = Promise.resolve();

  private constructor(files: TlsFiles, material: TlsMaterial, log: Logger) {
    this.#files = files;
    this.#material = material;
    this.#context = tlsContext(material);
    this.#log = log;
  }

  /** Rejects with a `TlsFileError`. */
  static async load(files: TlsFiles, log: Logger): Promise<TlsCredentials> {
    return new TlsCredentials(files, await loadTlsMaterial(files), log);
  }

  /** New connections use it; those that are there keep theirs. */
  get context(): TlsContext {
    return this.#context;
  }

  get material(): TlsMaterial {
    return this.#material;
  }

  /**
   * Reads the files again, for new connections. When one of them cannot be used, all stays as it was; `reloaded`
   * is called when they can.
   */
  reload(reloaded: (material: TlsMaterial) => void = () => {}): Promise<void> {
    // One after the other: the files of the last call are the ones that stay.
    this.#reloaded = this.#reloaded.then(async () => {
      try {
        this.#material = await loadTlsMaterial(this.#files);
        this.#context = tlsContext(this.#material);
        reloaded(this.#material);
        this.#log.info({}, 'The TLS files were read again');
      } catch (error) {
        const reason = error instanceof Error ? error.message : String(error);
        this.#log.error({}, `${reason}; new connections get the old TLS files`);
      }
    });
    return this.#reloaded;
  }
}
