/** One thread of the load generator: it connects, says so, waits for the word to go, and reports. */
import { once } from 'node:events';
import { parentPort, workerData } from 'node:worker_threads';
import { randomNumbers } from '../support/random.ts';
import { LoadClient } from './load-client.ts';
import { type Mix, requestsOf } from './load-mix.ts';

export interface LoadTask {
  readonly uri: string;
  readonly mix: Mix;
  readonly blockSize: number;
  readonly size: number;
  readonly depth: number;
  readonly seconds: number;
  readonly seed: number;
}

if (parentPort === null) {
  throw new Error('This is the worker of load.ts');
}
const { uri, mix, blockSize, size, depth, seconds, seed } = workerData as LoadTask;
{
  await using client = await LoadClient.connect(uri);
  const go = once(parentPort, 'message');
  parentPort.postMessage('ready');
  await go;
  const next = requestsOf(mix, blockSize, size, randomNumbers(seed));
  // Not zeros: a server may take them for a hole.
  parentPort.postMessage(await client.run(next, Buffer.alloc(blockSize, seed), depth, seconds));
}
parentPort.close();
