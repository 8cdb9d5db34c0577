/** What `npm pack` makes, installed into an empty folder: nothing of the checkout is there. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync } from 'node:fs';
import { copyFile, mkdir, rename, writeFile } from 'node:fs/promises';
import { dirname, join, resolve } from 'node:path';
import { createInterface } from 'node:readline';
import { expect, test } from 'vitest';
import { attempt, childEnvironment, run } from '../support/command.ts';
import { createFullImage, expectSameContent } from '../support/image.ts';
import { MiB } from '../support/storage.ts';
import { temporaryDirectory } from '../support/temporary-directory.ts';

/** This Node's own headers, where it came with them: node-gyp would fetch others from the network. */
function headers(): Record<string, string> {
  const nodeFolder = dirname(dirname(process.execPath));
  return existsSync(join(nodeFolder, 'include/node/node_api.h')) ? { npm_config_nodedir: nodeFolder } : {};
}

/** Starts a command that prints a URI and ends well after SIGTERM; its client runs in between. */
async function withServer(
  command: readonly [string, ...string[]],
  client: (uri: string) => Promise<unknown>,
): Promise<void> {
  const [program, ...args] = command;
  const child = spawn(program, args, { env: childEnvironment(), stdio: ['ignore', 'pipe', 'inherit'] });
  const exit = once(child, 'exit');
  try {
    const line = once(createInterface(child.stdout), 'line');
    const [uri] = (await Promise.race([line, exit])) as [string];
    await client(uri);
  } finally {
    child.kill('SIGTERM');
  }
  expect(await exit).toEqual([0, null]);
}

const SCRIPT = `
import { defineExport, ExportError, type RunningServer, serve } from 'nbd-serve';

const disk = new Uint8Array(1048576);
const server: RunningServer = await serve(
  defineExport({
    size: disk.length,
    open: async () => 'a client',
    read: (offset, length, handle) => disk.subarray(offset, offset + length + handle.length - 8),
    write: (offset, data) => {
      if (offset > 2 ** 20) throw new ExportError('ENOSPC');
      disk.set(data, offset);
    },
  }),
);
declare const process: { once(signal: string, listener: () => void): void; stdout: { write(text: string): void } };
process.once('SIGTERM', () => void server.close());
process.stdout.write(server.uri + '\\n');
`;

const COMPILER_OPTIONS = {
  target: 'es2023',
  lib: ['es2023', 'esnext.disposable'],
  module: 'nodenext',
  strict: true,
  exactOptionalPropertyTypes: true,
  skipLibCheck: false,
  // The types of the package stand on their own.
  types: [],
};

// Half a minute alone, several on a machine that is busy compiling other things.
const INSTALL_DEADLINE = 600_000;

test(
  'installs with a compiler and nothing else; then the program, the library and its types work',
  async () => {
    await using directory = await temporaryDirectory();
    const packed = await run([
      'npm',
      'pack',
      '--ignore-scripts',
      '--silent',
      '--pack-destination',
      directory.path,
    ]);
    const folder = directory.file('empty');
    await mkdir(folder);
    await writeFile(join(folder, 'package.json'), '{ "private": true, "type": "module" }');
    await run(
      [
        'npm',
        'install',
        '--prefix',
        folder,
        '--prefer-offline',
        '--no-audit',
        '--no-fund',
        directory.file(packed.trim()),
      ],
      { environment: { ...headers(), JOBS: '2' }, deadline: INSTALL_DEADLINE },
    );
    const program = join(folder, 'node_modules/.bin/nbd-serve');
    const image = directory.file('disk.img');
    await createFullImage(image, MiB);
    const copy = directory.file('copy.img');

    await withServer(
      [program, 'file', image, '--log-level', 'warn', '-U', directory.file('file.sock')],
      (uri) => run(['nbdcopy', uri, copy]),
    );
    await expectSameContent(image, copy);

    const device = join(folder, 'ram-disk.ts');
    await copyFile(join(folder, 'node_modules/nbd-serve/examples/ram-disk.ts'), device);
    await withServer(
      [program, 'plugin', device, '--log-level', 'warn', '-U', directory.file('plugin.sock')],
      (uri) => run(['nbdcopy', image, uri]),
    );

    await writeFile(join(folder, 'use.ts'), SCRIPT);
    await writeFile(
      join(folder, 'tsconfig.json'),
      JSON.stringify({ compilerOptions: COMPILER_OPTIONS, files: ['use.ts'] }),
    );
    await run([resolve('node_modules/.bin/tsc'), '-p', folder]);
    await withServer([process.execPath, join(folder, 'use.js')], async (uri) => {
      await run(['nbdcopy', image, uri]);
      await run(['nbdcopy', uri, copy]);
    });
    await expectSameContent(image, copy);

    // As --ignore-scripts leaves it.
    await rename(join(folder, 'node_modules/nbd-serve/build'), directory.file('build'));
    const { code, stdout, stderr } = await attempt([program, 'file', image]);
    expect({ code, stdout }).toEqual({ code: 1, stdout: '' });
    expect(stderr).toMatch(
      /^nbd-serve: The native addons of ".*" are not built for Node .*"npm rebuild".*\n$/,
    );
  },
  INSTALL_DEADLINE,
);
