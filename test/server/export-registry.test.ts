/** Exports by name. */
import { expect, test } from 'vitest';
import { exportInfo, type ServedExport } from '../../src/plugins/export-source.ts';
import { ExportRegistry } from '../../src/server/export-registry.ts';
import { FakePlugin, INFO } from './fake-plugin.ts';

function served(name: string, description = ''): ServedExport & { readonly plugin: FakePlugin } {
  return { name, description, plugin: new FakePlugin() };
}

test('an export answers to its exact name only', async () => {
  const disk = served('disk', 'of mine');
  const registry = new ExportRegistry([disk, served('größe')]);
  expect(registry.describe('disk')).toEqual(exportInfo(disk));
  expect((await registry.open('disk'))?.info).toEqual(exportInfo(disk));
  for (const name of ['', 'Disk', 'disk ', 'dis', 'disks', 'gro\u0308ße', '__proto__', 'constructor']) {
    expect(registry.describe(name)).toBeUndefined();
    expect(await registry.open(name)).toBeUndefined();
  }
});

test('the empty name is a name like others', async () => {
  const unnamed = served('');
  const opened = await new ExportRegistry([unnamed]).open('');
  expect(opened?.info.name).toBe('');
});

test('all exports are listed in their order', () => {
  const registry = new ExportRegistry([served('b', 'two'), served('', ''), served('a', 'one')]);
  expect(registry.list().map(({ name, description }) => [name, description])).toEqual([
    ['b', 'two'],
    ['', ''],
    ['a', 'one'],
  ]);
});

test('what the protocol says of an export is what the plugin says, with name and description', () => {
  expect(exportInfo(served('disk', 'of mine'))).toEqual({ ...INFO, name: 'disk', description: 'of mine' });
});

test('closing closes every plugin, also behind one that fails, and tells of the failure', async () => {
  const exports = [served('a'), served('b'), served('c')];
  const [first] = exports;
  if (first !== undefined) {
    first.plugin.beforeClose = () => {
      throw new Error('Data was lost');
    };
  }
  await expect(new ExportRegistry(exports).close()).rejects.toThrow('Data was lost');
  expect(exports.map(({ plugin }) => plugin.closeCount)).toEqual([1, 1, 1]);
});

test('what has handles in use is settled, or closed where that is all there is', async () => {
  const exports = [served('a'), served('b'), served('c')];
  const settled: string[] = [];
  for (const { name, plugin } of exports.slice(0, 2)) {
    Object.assign(plugin, {
      settle: async () => {
        settled.push(name);
        throw new Error('Data was lost');
      },
    });
  }
  await expect(new ExportRegistry(exports).settle()).rejects.toThrow('Data was lost');
  expect(settled).toEqual(['a', 'b']);
  expect(exports.map(({ plugin }) => plugin.closeCount)).toEqual([0, 0, 1]);
});

test('closing without exports succeeds', async () => {
  await expect(new ExportRegistry([]).close()).resolves.toBeUndefined();
});
