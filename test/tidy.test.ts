/** The rules of the house that no compiler checks: layers, purity of the protocol, size of files. */
import { readdirSync, readFileSync } from 'node:fs';
import { dirname, join, relative, resolve } from 'node:path';
import { expect, test } from 'vitest';

const ROOT = resolve(import.meta.dirname, '..');
const SOURCE = join(ROOT, 'src');
const FILE_LINES_MAX = 400;

/** From top to bottom; a layer imports from itself and from layers below. */
const LAYERS = [
  'main',
  'index',
  'api',
  'cli',
  'metrics',
  'server',
  'filters',
  'plugins',
  'log',
  'native',
  'protocol',
  'units',
  'limits',
];

interface SourceFile {
  /** Relative to src. */
  readonly path: string;
  readonly text: string;
  /** The text without comments and the contents of string literals. */
  readonly code: string;
}

/** Blanks comments, then what stands between quotes; good enough for formatted source. */
function withoutProse(text: string): string {
  return text
    .replaceAll(/\/\*[\s\S]*?\*\//g, '')
    .replaceAll(/(^|\s)\/\/.*$/gm, '')
    .replaceAll(/'(?:[^'\\\n]|\\.)*'/g, "''")
    .replaceAll(/`(?:[^`\\]|\\.)*`/g, '``');
}

const files: readonly SourceFile[] = readdirSync(SOURCE, { recursive: true, encoding: 'utf8' })
  .filter((path) => path.endsWith('.ts'))
  .sort()
  .map((path) => {
    const text = readFileSync(join(SOURCE, path), 'utf8');
    return { path, text, code: withoutProse(text) };
  });

const inProtocol = files.filter(({ path }) => path.startsWith('protocol/'));

/** Every module that a file imports or re-exports, by whatever syntax. */
function importsOf({ text }: SourceFile): string[] {
  const specifiers = /(?:\bfrom|\bimport|\bimport\(|\brequire\()\s*['"]([^'"]+)['"]/g;
  return [...text.matchAll(specifiers)].map((match) => match[1] ?? '');
}

/** A relative import as a path relative to src; undefined for packages. */
function targetOf(file: SourceFile, specifier: string): string | undefined {
  return specifier.startsWith('.')
    ? relative(SOURCE, resolve(SOURCE, dirname(file.path), specifier))
    : undefined;
}

function layerOf(path: string): number {
  const layer = LAYERS.indexOf((path.split('/')[0] ?? '').replace(/\.ts$/, ''));
  if (layer < 0) throw new Error(`src/${path} belongs to no layer of test/tidy.test.ts`);
  return layer;
}

function violations(check: (file: SourceFile) => readonly string[]): string[] {
  return files.flatMap((file) => check(file).map((text) => `src/${file.path}: ${text}`));
}

test('there is source to check', () => {
  expect(inProtocol.length).toBeGreaterThan(10);
  const reader = inProtocol.find(({ path }) => path === 'protocol/option-reader.ts');
  expect(reader === undefined ? [] : importsOf(reader)).toContain('../limits.ts');
});

test('every source file belongs to a layer', () => {
  expect(() => files.map(({ path }) => layerOf(path))).not.toThrow();
});

test('imports point downwards only', () => {
  const upwards = violations((file) =>
    importsOf(file).filter((specifier) => {
      const target = targetOf(file, specifier);
      return target !== undefined && layerOf(target) < layerOf(file.path);
    }),
  );
  expect(upwards).toEqual([]);
});

test('relative imports stay inside src', () => {
  const outside = violations((file) =>
    importsOf(file).filter((specifier) => targetOf(file, specifier)?.startsWith('..') === true),
  );
  expect(outside).toEqual([]);
});

test('every package that src imports at run time is a dependency, not one for development only', () => {
  const { dependencies, optionalDependencies } = JSON.parse(
    readFileSync(join(ROOT, 'package.json'), 'utf8'),
  ) as Record<string, Readonly<Record<string, string>>>;
  const known = [...Object.keys(dependencies ?? {}), ...Object.keys(optionalDependencies ?? {})];
  const missing = violations(({ path, text }) => {
    const atRunTime = text.replaceAll(/^\s*(?:\*|\/\/|\/\*\*).*$|^(?:import|export) type .*$/gm, '');
    return importsOf({ path, text: atRunTime, code: '' }).filter(
      (specifier) =>
        !/^(?:\.|node:)/.test(specifier) &&
        !known.some((name) => specifier === name || specifier.startsWith(`${name}/`)),
    );
  });
  expect(missing).toEqual([]);
});

test('src/protocol imports nothing but itself and the limits', () => {
  const foreign = inProtocol.flatMap((file) =>
    importsOf(file).filter((specifier) => {
      const target = targetOf(file, specifier);
      return target === undefined || !(target.startsWith('protocol/') || target === 'limits.ts');
    }),
  );
  expect(foreign).toEqual([]);
});

test('src/protocol and the limits know no promises, timers, sockets, processes or logs', () => {
  const impure =
    /(?<![#.])\b(async|await|Promise|setTimeout|setInterval|setImmediate|queueMicrotask|process|console|Buffer|Date|performance)\b/g;
  const found = files
    .filter(({ path }) => path.startsWith('protocol/') || path === 'limits.ts')
    .flatMap(({ path, code }) => [...code.matchAll(impure)].map(([word]) => `src/${path}: ${word}`));
  expect(found).toEqual([]);
});

test('src/native imports nothing of ours above it', () => {
  const wrong = violations((file) =>
    file.path.startsWith('native/')
      ? importsOf(file).filter((specifier) => {
          const target = targetOf(file, specifier);
          return target !== undefined && !/^(native|protocol)\/|^limits\.ts$/.test(target);
        })
      : [],
  );
  expect(wrong).toEqual([]);
});

test('only src/main.ts exits the process', () => {
  const exits = violations(({ path, code }) =>
    path === 'main.ts'
      ? []
      : [...code.matchAll(/\bprocess\s*\.\s*(?:exit|reallyExit|abort)\b/g)].map(([call]) => call),
  );
  expect(exits).toEqual([]);
});

test(`no source file is longer than ${FILE_LINES_MAX} lines`, () => {
  const long = violations(({ text }) => {
    const { length } = text.trimEnd().split('\n');
    return length > FILE_LINES_MAX ? [`${length} lines`] : [];
  });
  expect(long).toEqual([]);
});
