/** Which requests fail, how often, and what of them reaches the plugin. */
import { rm, writeFile } from 'node:fs/promises';
import { expect, test } from 'vitest';
import { BackendError } from '../../../src/plugins/backend-error.ts';
import { temporaryDirectory } from '../../support/temporary-directory.ts';
import { BufferPlugin } from '../buffer-plugin.ts';
import { filtered } from '../stack.ts';

/** The errno of each request, or "ok". */
async function fates(
  text: string,
  count: number,
  inner = new BufferPlugin(Buffer.alloc(1000)),
): Promise<string[]> {
  const plugin = await filtered(inner, [text]);
  const handle = await plugin.open();
  const results: string[] = [];
  for (let index = 0; index < count; index += 1) {
    const request = [
      () => handle.read(Buffer.alloc(10), 0, 10, 0),
      () => handle.write(Buffer.alloc(10, 1), 0, 10, 0, false),
      () => handle.flush(),
    ][index % 3];
    try {
      await request?.();
      results.push('ok');
    } catch (error) {
      results.push(error instanceof BackendError ? String(error.errno) : 'bug');
    }
  }
  await handle.close();
  return results;
}

test('none fails at 0 %, all do at 100 %, and nothing of them reaches the plugin', async () => {
  expect(new Set(await fates('error:0%', 300))).toEqual(new Set(['ok']));
  const inner = new BufferPlugin(Buffer.alloc(1000));
  expect(new Set(await fates('error:100%', 300, inner))).toEqual(new Set(['5']));
  expect(inner.calls).toEqual([]);
});

test('the same seed gives the same fates, another one others', async () => {
  const one = await fates('error:rate=30%,seed=7', 300);
  expect(await fates('error:rate=30%,seed=7', 300)).toEqual(one);
  expect(await fates('error:rate=30%,seed=8', 300)).not.toEqual(one);
  const failed = one.filter((fate) => fate !== 'ok').length;
  expect(failed).toBeGreaterThan(60);
  expect(failed).toBeLessThan(120);
});

test('without a seed it is a matter of chance', async () => {
  expect(await fates('error:50%', 100)).not.toEqual(await fates('error:50%', 100));
});

test('only the commands that are named fail, with the errno that is named', async () => {
  expect(await fates('error:rate=100%,errno=ENOSPC,commands=write,flush', 6)).toEqual([
    'ok',
    '28',
    '28',
    'ok',
    '28',
    '28',
  ]);
});

test('a file switches it on and off', async () => {
  await using directory = await temporaryDirectory();
  const path = directory.file('fail,now');
  const inner = new BufferPlugin(Buffer.alloc(1000));
  const plugin = await filtered(inner, [`error:rate=100%,file=${path.replaceAll(',', ',,')}`]);
  const handle = await plugin.open();
  await handle.flush();
  await writeFile(path, '');
  await expect(handle.flush()).rejects.toThrow('error filter: flush');
  await rm(path);
  await handle.flush();
  await handle.close();
});
