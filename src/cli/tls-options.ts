/** What the command line says about TLS, as a whole: no option is accepted and then ignored. */
import type { TlsFiles, TlsSetup } from '../server/tls.ts';
import { CommandError } from './command-error.ts';
import type { ServingOptions } from './serving-options.ts';

export type TlsOptions = Pick<ServingOptions, 'tls' | 'tlsCertificates' | 'tlsPsk' | 'tlsVerifyPeer'>;

export interface TlsSettings {
  readonly mode: TlsSetup['mode'];
  readonly files: TlsFiles;
}

/** Undefined when TLS is off. */
export function tlsSettings(options: TlsOptions): TlsSettings | undefined {
  const { tls, tlsCertificates, tlsPsk, tlsVerifyPeer } = options;
  if (tls === 'off') {
    if (tlsCertificates !== undefined || tlsPsk !== undefined || tlsVerifyPeer) {
      throw new CommandError(
        '--tls-certificates, --tls-psk and --tls-verify-peer need --tls allow or --tls require',
      );
    }
    return undefined;
  }
  if (tlsCertificates === undefined && tlsPsk === undefined) {
    throw new CommandError(
      `--tls ${tls} needs --tls-certificates or --tls-psk ("nbd-serve tls-init DIR" makes the files for both)`,
    );
  }
  if (tlsVerifyPeer && tlsCertificates === undefined) {
    throw new CommandError(
      '--tls-verify-peer needs --tls-certificates, whose ca-cert.pem it verifies against',
    );
  }
  const files = { certificates: tlsCertificates, psk: tlsPsk, isPeerVerified: tlsVerifyPeer };
  return { mode: tls, files };
}
