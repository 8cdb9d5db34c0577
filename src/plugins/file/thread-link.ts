/**
 * How the worker threads that serve a file and the main thread, which owns and serves it, come together: what a thread gets
 * to know of the file, words of shared memory, and a channel for each thread. Nothing goes over the channel for a READ or
 * a WRITE; a FLUSH, or a request with FUA, is a question and its answer.
 */
import { BackendError } from '../backend-error.ts';
import type { PluginInfo } from '../plugin.ts';
import type { FileFacts } from './shared-file.ts';

/** The `data` of the plugin's `sharing`. */
export interface FileShare {
  readonly info: PluginInfo;
  readonly facts: FileFacts;
  /** Of a ChunkMarks, with `--keep-resident`. */
  readonly chunkWords: Int32Array | undefined;
  readonly words: Int32Array;
  /** See `channelName`. */
  readonly channels: string;
}

/** The word that is 1 when a thread has changed the file since the last fdatasync began. */
export const CHANGED = 0;

/**
 * The word of a worker thread, from 1 on, that counts its calls which may hold a write-back error: those under way, and the
 * errors that are told and not latched yet. A FLUSH that finds 0 after its fdatasync has missed nothing of that thread.
 */
export function unsettledWord(thread: number): number {
  return thread;
}

/** For `threadCount` threads that serve, the main one included, which needs no word. */
export function createWords(threadCount: number): Int32Array {
  return new Int32Array(new SharedArrayBuffer(threadCount * Int32Array.BYTES_PER_ELEMENT));
}

/** The name of the BroadcastChannel between the main thread and one other: a channel of two, not of all. */
export function channelName(channels: string, thread: number): string {
  return `${channels}-${thread}`;
}

/** A BackendError as plain data: a copy of the object would lose its class. */
export interface ErrorText {
  readonly errno: BackendError['errno'];
  readonly operation: string;
  readonly offset: number;
  readonly length: number;
  readonly message: string;
}

export type ToMain =
  | { readonly type: 'flush'; readonly id: number }
  | { readonly type: 'loss'; readonly loss: ErrorText }
  /** A FLUSH has succeeded: the others are to sweep the page cache, too. */
  | { readonly type: 'sweep' }
  /** The answer to `settle`. */
  | { readonly type: 'settled'; readonly id: number }
  /** The thread is done with the file: it watches nothing more, and answers no more. */
  | { readonly type: 'left' };

export type ToThread =
  /** The answer to `flush`. */
  | { readonly type: 'flushed'; readonly id: number; readonly error: ErrorText | undefined }
  /** Answer when every watched call under way has reported. */
  | { readonly type: 'settle'; readonly id: number }
  /** A FLUSH has succeeded in another thread: sweep the page cache soon. */
  | { readonly type: 'sweep' };

export function errorText({ errno, operation, offset, length, message }: BackendError): ErrorText {
  return { errno, operation, offset, length, message };
}

/** The error again; the main thread logs what it is told of, so nobody else does. */
export function toError({ errno, operation, offset, length, message }: ErrorText): BackendError {
  const error = new BackendError(errno, operation, offset, length, message);
  error.isLogged = true;
  return error;
}
