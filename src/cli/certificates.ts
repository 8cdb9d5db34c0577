/**
 * X.509 certificates of a new CA: RSA and SHA-256, which every TLS library of the last fifteen years takes.
 * Keys come from OpenSSL; node-forge only composes and signs the certificates.
 */
import { generateKeyPair, randomBytes } from 'node:crypto';
import { isIP } from 'node:net';
import { promisify } from 'node:util';
import forge from 'node-forge';

/** Beyond 2030 in NIST SP 800-57. */
const RSA_BITS = 3072;

/** Clocks differ: a certificate made now must be valid on a machine that is a little behind. */
const CLOCK_SKEW_MS = 60 * 60 * 1000;
const DAY_MS = 24 * 60 * 60 * 1000;

const DNS_NAME = 2;
const IP_ADDRESS = 7;

/** Both in PEM. */
export interface Certified {
  readonly certificate: string;
  readonly key: string;
}

interface KeyPair {
  readonly pem: string;
  readonly publicKey: forge.pki.rsa.PublicKey;
  readonly privateKey: forge.pki.rsa.PrivateKey;
}

interface Issuer {
  readonly commonName: string;
  readonly privateKey: forge.pki.rsa.PrivateKey;
}

/** A CA and what it has signed: a server that is known as `hosts`, names and addresses, and a client. */
export async function makeCertificates(
  hosts: readonly string[],
  days: number,
): Promise<{ readonly ca: Certified; readonly server: Certified; readonly client: Certified }> {
  const [caKeys, serverKeys, clientKeys] = await Promise.all([makeKeys(), makeKeys(), makeKeys()]);
  const altNames = [...new Set(hosts)].map((host) =>
    isIP(host) === 0 ? { type: DNS_NAME, value: host } : { type: IP_ADDRESS, ip: host },
  );
  const [serverName = ''] = hosts;
  // A name of its own: clients tell authorities apart by it.
  const issuer: Issuer = {
    commonName: `nbd-serve CA ${randomBytes(4).toString('hex')}`,
    privateKey: caKeys.privateKey,
  };
  return {
    ca: sign(issuer.commonName, caKeys, issuer, days, [
      { name: 'basicConstraints', critical: true, cA: true, pathLenConstraint: 0 },
      { name: 'keyUsage', critical: true, keyCertSign: true, cRLSign: true },
    ]),
    server: sign(serverName, serverKeys, issuer, days, [
      ...leafExtensions(caKeys),
      { name: 'extKeyUsage', serverAuth: true },
      { name: 'subjectAltName', altNames },
    ]),
    client: sign('nbd client', clientKeys, issuer, days, [
      ...leafExtensions(caKeys),
      { name: 'extKeyUsage', clientAuth: true },
    ]),
  };
}

function leafExtensions(caKeys: KeyPair): object[] {
  return [
    { name: 'basicConstraints', critical: true, cA: false },
    { name: 'keyUsage', critical: true, digitalSignature: true, keyEncipherment: true },
    {
      name: 'authorityKeyIdentifier',
      keyIdentifier: forge.pki.getPublicKeyFingerprint(caKeys.publicKey).getBytes(),
    },
  ];
}

async function makeKeys(): Promise<KeyPair> {
  const { privateKey: pem } = await promisify(generateKeyPair)('rsa', {
    modulusLength: RSA_BITS,
    publicKeyEncoding: { type: 'spki', format: 'pem' },
    privateKeyEncoding: { type: 'pkcs8', format: 'pem' },
  });
  const privateKey = forge.pki.privateKeyFromPem(pem);
  return { pem, privateKey, publicKey: forge.pki.setRsaPublicKey(privateKey.n, privateKey.e) };
}

function sign(
  commonName: string,
  keys: KeyPair,
  issuer: Issuer,
  days: number,
  extensions: readonly object[],
): Certified {
  const certificate = forge.pki.createCertificate();
  certificate.publicKey = keys.publicKey;
  // Positive, without a leading zero byte, and too long to meet twice (RFC 5280, 4.1.2.2).
  certificate.serialNumber = `4${randomBytes(16).toString('hex').slice(1)}`;
  certificate.validity.notBefore = new Date(Date.now() - CLOCK_SKEW_MS);
  certificate.validity.notAfter = new Date(Date.now() + days * DAY_MS);
  certificate.setSubject([{ name: 'commonName', value: commonName }]);
  certificate.setIssuer([{ name: 'commonName', value: issuer.commonName }]);
  certificate.setExtensions([...extensions, { name: 'subjectKeyIdentifier' }]);
  certificate.sign(issuer.privateKey, forge.md.sha256.create());
  return { certificate: forge.pki.certificateToPem(certificate).replaceAll('\r\n', '\n'), key: keys.pem };
}
