/** The TLS credentials of a server, and how SIGHUP renews them. */
import type { Logger } from '../log.ts';
import type { ServingThreads } from '../server/threads.ts';
import { TlsCredentials, type TlsSetup } from '../server/tls.ts';
import type { ServiceManager } from './service-manager.ts';
import { type TlsOptions, tlsSettings } from './tls-options.ts';

export interface LoadedTls extends TlsSetup {
  readonly credentials: TlsCredentials;
}

/** Undefined when TLS is off. */
export async function loadTls(options: TlsOptions, log: Logger): Promise<LoadedTls | undefined> {
  const settings = tlsSettings(options);
  return settings && { mode: settings.mode, credentials: await TlsCredentials.load(settings.files, log) };
}

/** SIGHUP reads the TLS files again; without any it keeps its default action, like the end of a terminal. */
export function reloadOnHangup(
  tls: LoadedTls | undefined,
  threads: ServingThreads | undefined,
  manager: ServiceManager,
  status: string,
): Disposable {
  const reload = async (): Promise<void> => {
    void manager.reloading();
    await tls?.credentials.reload((material) => threads?.setTls(material));
    void manager.ready(status);
  };
  const onHangup = (): void => void reload();
  if (tls !== undefined) {
    process.on('SIGHUP', onHangup);
  }
  return { [Symbol.dispose]: () => process.off('SIGHUP', onHangup) };
}
