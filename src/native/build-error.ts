/** The addons are compiled when the package is installed; what to say when they are not there, or not for this Node. */
import { fileURLToPath } from 'node:url';

const PACKAGE_FOLDER = fileURLToPath(new URL('../..', import.meta.url));

/** One line for the user. */
export class BuildError extends Error {
  override readonly name = 'BuildError';
}

/** What an error of loading an addon means; undefined for every other error. */
export function buildErrorFrom(error: unknown): BuildError | undefined {
  if (error instanceof BuildError) {
    return error;
  }
  const { code, message = '' } = error as Partial<NodeJS.ErrnoException>;
  const isMissing = code === 'MODULE_NOT_FOUND' && message.includes('build/Release');
  if (!isMissing && code !== 'ERR_DLOPEN_FAILED') {
    return undefined;
  }
  return new BuildError(
    `The native addons of "${PACKAGE_FOLDER}" are not built for Node ${process.version}, perhaps because install scripts were not run: ` +
      'run "npm rebuild" where it is installed, or "npm ci" in a checkout',
    { cause: error },
  );
}
