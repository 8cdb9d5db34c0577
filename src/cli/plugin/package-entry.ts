/**
 * `import ... from 'nbd-serve'` in a module of an author's: it must find a package also where none is installed
 * beside the module, as with a global installation or a checkout. Then it is this one.
 */
import * as nodeModule from 'node:module';
import { fileURLToPath } from 'node:url';

export const PACKAGE_NAME = 'nbd-serve';

const ENTRY_URL = new URL('../../index.js', import.meta.url).href;

/** Path of the module that the package exports. */
export const PACKAGE_ENTRY = fileURLToPath(ENTRY_URL);

type NextResolve = (specifier: string, context?: unknown) => unknown;

interface SyncHooks {
  registerHooks?(hooks: {
    resolve(specifier: string, context: unknown, nextResolve: NextResolve): unknown;
  }): void;
}

/** For Node before 22.15, which has hooks in a thread of their own only, as the text of a module. */
const THREAD_HOOKS = `export async function resolve(specifier, context, nextResolve) {
  try {
    return await nextResolve(specifier, context);
  } catch (error) {
    if (specifier !== ${JSON.stringify(PACKAGE_NAME)}) throw error;
    return { url: ${JSON.stringify(ENTRY_URL)}, shortCircuit: true };
  }
}`;

/** From now on an import of the package that finds none gets this one. */
export function findOurselves(): void {
  const { registerHooks } = nodeModule as SyncHooks;
  if (registerHooks === undefined) {
    nodeModule.register(`data:text/javascript,${encodeURIComponent(THREAD_HOOKS)}`);
    return;
  }
  registerHooks({
    resolve: (specifier, context, nextResolve) => {
      try {
        return nextResolve(specifier, context);
      } catch (error) {
        if (specifier !== PACKAGE_NAME) {
          throw error;
        }
        return { url: ENTRY_URL, shortCircuit: true };
      }
    },
  });
}
