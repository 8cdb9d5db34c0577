/** The servers that are measured side by side: ours, and nbdkit, qemu-nbd and nbd-server, with equal settings. */
import { writeFile } from 'node:fs/promises';
import { createServer } from 'node:net';
import { join, resolve } from 'node:path';

export type Target = 'file' | 'memory';
export type Cache = 'default' | 'none';
export type Transport = 'unix' | 'tcp' | 'tls';

/** What all servers of a comparison serve, and how clients reach them. */
export interface Setup {
  readonly target: Target;
  /** Of a file. `none` leaves nothing (or next to nothing) in the page cache. */
  readonly cache: Cache;
  readonly transport: Transport;
  /** The file to serve. */
  readonly image: string;
  /** Of the export, in bytes. */
  readonly size: number;
  /** All servers of the comparison serve it at the same time. */
  readonly isShared?: boolean;
  /** Certificates for `tls`, under the names that all servers but nbd-server look for. */
  readonly certificates: string;
}

/** How one server is started. */
export interface Launch {
  readonly command: readonly [string, ...string[]];
  /** What clients connect to, without what they need for TLS. */
  readonly uri: string;
  /** Written by a server that goes to the background: the process to watch and to end. */
  readonly pidFile?: string;
  /** It runs `loop-delay-preload.mjs` and answers to it. */
  readonly canTellLoopDelay?: boolean;
}

export interface Peer {
  readonly name: string;
  /** It answers without data of any kind: nothing to compare, and no disk to wait for. */
  readonly keepsNothing?: boolean;
  /** It takes part only in cells with such names; else in all. */
  readonly onlyIn?: RegExp;
  /** How to serve `setup` with sockets and other files in `folder`; undefined: it has nothing of the kind. */
  launch(setup: Setup, folder: string): Promise<Launch | undefined>;
}

export const PROGRAM = resolve('dist/main.js');

/** The build at `program`, with more options than the setup asks for. */
export function nbdServe(name: string, program = PROGRAM, options: readonly string[] = []): Peer {
  return {
    name,
    launch: async (setup, folder) => {
      const address = await addressFor(setup, folder);
      const [image, cache] = [setup.image, setup.cache];
      return {
        command: [
          process.execPath,
          '--import',
          join(import.meta.dirname, 'loop-delay-preload.mjs'),
          program,
          ...(setup.target === 'file' ? ['file', image, '--cache', cache] : ['memory', `${setup.size}`]),
          ...('socket' in address ? ['--unix', address.socket] : ['--port', `${address.port}`]),
          ...(setup.transport === 'tls'
            ? ['--tls', 'require', '--tls-certificates', setup.certificates]
            : []),
          ...(setup.isShared === true ? ['--no-lock'] : []),
          ...['--log-level', 'warn', ...options],
        ],
        uri: uriOf(setup, address),
        canTellLoopDelay: true,
      };
    },
  };
}

/** 16 threads, its default; cache=none is what `--cache none` was modelled on. */
export const NBDKIT: Peer = {
  name: 'nbdkit',
  launch: async (setup, folder) => {
    const address = await addressFor(setup, folder);
    return {
      command: [
        ...(['nbdkit', '--foreground', '--exit-with-parent'] as const),
        ...('socket' in address
          ? ['--unix', address.socket]
          : ['--ipaddr', '127.0.0.1', '--port', `${address.port}`]),
        ...(setup.transport === 'tls' ? ['--tls=require', `--tls-certificates=${setup.certificates}`] : []),
        ...(setup.target === 'file'
          ? ['file', setup.image, `cache=${setup.cache}`]
          : ['memory', `${setup.size}`]),
      ],
      uri: uriOf(setup, address),
    };
  },
};

/**
 * `--cache=none` is O_DIRECT: it goes past the page cache where ours passes through it. The default here is
 * writeback, which uses the page cache as the others do. It has no RAM disk.
 */
export const QEMU_NBD: Peer = {
  name: 'qemu-nbd',
  launch: async (setup, folder) => {
    if (setup.target === 'memory') {
      return undefined;
    }
    const address = await addressFor(setup, folder);
    const credentials = `tls-creds-x509,id=tls,endpoint=server,verify-peer=no,dir=${setup.certificates}`;
    return {
      command: [
        ...(['qemu-nbd', '--format=raw', '--persistent', '--shared=16', '--discard=unmap'] as const),
        `--cache=${setup.cache === 'none' ? 'none' : 'writeback'}`,
        ...('socket' in address
          ? ['--socket', address.socket]
          : ['--bind=127.0.0.1', `--port=${address.port}`]),
        ...(setup.transport === 'tls' ? ['--object', credentials, '--tls-creds=tls'] : []),
        setup.image,
      ],
      uri: uriOf(setup, address),
    };
  },
};

/** A process for each connection, which it cannot do in the foreground. It has no cache=none and no RAM disk. */
export const NBD_SERVER: Peer = {
  name: 'nbd-server',
  launch: async (setup, folder) => {
    if (setup.target === 'memory' || setup.cache === 'none') {
      return undefined;
    }
    const address = await addressFor(setup, folder);
    const [configuration, pidFile] = [join(folder, 'nbd-server.conf'), join(folder, 'nbd-server.pid')];
    const file = (name: string): string => join(setup.certificates, name);
    const lines = [
      '[generic]',
      ...('socket' in address
        ? [`unixsock = ${address.socket}`]
        : [`port = ${address.port}`, 'listenaddr = 127.0.0.1']),
      ...(setup.transport === 'tls'
        ? [
            `cacertfile = ${file('ca-cert.pem')}`,
            `certfile = ${file('server-cert.pem')}`,
            `keyfile = ${file('server-key.pem')}`,
            'force_tls = true',
          ]
        : []),
      '[bench]',
      `exportname = ${setup.image}`,
      ...['flush', 'fua', 'trim'].map((name) => `${name} = true`),
    ];
    await writeFile(configuration, `${lines.join('\n')}\n`);
    return {
      command: ['nbd-server', '-C', configuration, '-p', pidFile],
      uri: uriOf(setup, address, 'bench'),
      pidFile,
    };
  },
};

export type Address = { readonly socket: string } | { readonly port: number };

export async function addressFor({ transport }: Pick<Setup, 'transport'>, folder: string): Promise<Address> {
  return transport === 'unix' ? { socket: join(folder, 'socket') } : { port: await freePort() };
}

export function uriOf({ transport }: Pick<Setup, 'transport'>, address: Address, exportName = ''): string {
  return 'socket' in address
    ? `nbd+unix:///${exportName}?socket=${address.socket}`
    : `${transport === 'tls' ? 'nbds' : 'nbd'}://127.0.0.1:${address.port}/${exportName}`;
}

/** Free now; somebody else may take it before the server does, which then says so and ends. */
async function freePort(): Promise<number> {
  const server = createServer();
  await new Promise<void>((listening) => server.listen(0, '127.0.0.1', listening));
  const address = server.address();
  await new Promise((closed) => server.close(closed));
  if (address === null || typeof address === 'string') {
    throw new Error('No TCP port is free');
  }
  return address.port;
}
