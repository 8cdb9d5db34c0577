import { Worker } from 'node:worker_threads';

/** A worker thread that runs a TypeScript module. */
export function typescriptWorker(module: URL, workerData: unknown): Worker {
  return new Worker(new URL('./typescript-worker.mjs', import.meta.url), { argv: [module.href], workerData });
}
