/** From a module of an author's to the definition that it exports. */
import { once } from 'node:events';
import { stat } from 'node:fs/promises';
import { extname, resolve } from 'node:path';
import { pathToFileURL } from 'node:url';
import { createJiti } from 'jiti';
import type { Logger } from '../../log.ts';
import type { ExportDefinition } from '../../plugins/custom/definition.ts';
import { CommandError } from '../command-error.ts';
import { describeLoadError } from './load-error.ts';
import { findOurselves, PACKAGE_ENTRY, PACKAGE_NAME } from './package-entry.ts';

/** What the function that a module exports is told beside its arguments. */
export interface PluginModuleContext {
  /** Where the server's own log lines go. */
  readonly log: Logger;
  /** Nothing will be written: `--read-only` was given. */
  readonly isReadOnly: boolean;
}

/** The default export of a module for `nbd-serve plugin`: a device, or a function that makes one. */
export type PluginModuleDefault =
  | ExportDefinition<unknown>
  | ((
      args: readonly string[],
      context: PluginModuleContext,
    ) => ExportDefinition<unknown> | Promise<ExportDefinition<unknown>>);

const TYPESCRIPT = /^\.[cm]?ts$/;

/** What the module's default export is or makes; whether it is a definition is not looked at. */
export async function loadDefinition(
  path: string,
  args: readonly string[],
  context: PluginModuleContext,
): Promise<unknown> {
  const file = resolve(path);
  await assertFile(file, path);
  const ended = new AbortController();
  try {
    return await Promise.race([
      makeDefinition(file, path, args, context),
      strayError(ended.signal),
      deadEnd(path, ended.signal),
    ]);
  } catch (error) {
    throw error instanceof CommandError
      ? error
      : new CommandError(`Cannot load "${path}": ${await describeLoadError(error, file)}`);
  } finally {
    ended.abort();
  }
}

/** Rejects with what is thrown in a timer, or in a promise that nobody awaits, while the module is loaded. */
async function strayError(signal: AbortSignal): Promise<never> {
  const events = ['uncaughtException', 'unhandledRejection'];
  const [error] = await Promise.race(
    events.map((name) => once(process, name, { signal }) as Promise<[unknown]>),
  );
  throw error;
}

/** Rejects when the event loop runs dry before the module has answered; Node would exit without a word for people. */
async function deadEnd(path: string, signal: AbortSignal): Promise<never> {
  await once(process, 'beforeExit', { signal });
  throw new CommandError(`Cannot load "${path}": its promise never settles`);
}

async function assertFile(file: string, path: string): Promise<void> {
  try {
    if ((await stat(file)).isFile()) {
      return;
    }
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    throw new CommandError(`Cannot load "${path}": ${code === 'ENOENT' ? 'there is no such file' : code}`);
  }
  throw new CommandError(`Cannot load "${path}": it is no file`);
}

async function makeDefinition(
  file: string,
  path: string,
  args: readonly string[],
  context: PluginModuleContext,
): Promise<unknown> {
  const { default: exported } = await importModule(file);
  if (exported === undefined) {
    throw new CommandError(
      `Cannot load "${path}": it has no default export (export default defineExport({ ... }))`,
    );
  }
  if (typeof exported === 'function') {
    return await (exported as (...words: unknown[]) => unknown)(args, context);
  }
  if (args.length > 0) {
    throw new CommandError(`"${path}" takes no arguments: its default export is no function`);
  }
  return exported;
}

interface ModuleNamespace {
  readonly default?: unknown;
}

async function importModule(file: string): Promise<ModuleNamespace> {
  // Node strips types from 22.18 on; what is not in its own types yet is asked for by name.
  const stripsTypes = Boolean(Reflect.get(process.features, 'typescript'));
  if (TYPESCRIPT.test(extname(file)) && !stripsTypes) {
    const jiti = createJiti(import.meta.url, {
      // Neither caches in folders of the author's, nor a default export that is made up.
      fsCache: false,
      interopDefault: false,
      alias: { [PACKAGE_NAME]: PACKAGE_ENTRY },
    });
    return await jiti.import<ModuleNamespace>(file);
  }
  findOurselves();
  return (await import(pathToFileURL(file).href)) as ModuleNamespace;
}
