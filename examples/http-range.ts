/**
 * A read-only device from a file on a web server that answers range requests: what is read is fetched, nothing is
 * kept. Requests that fail are tried again; a file that has changed since the start gives EIO from then on, never
 * a mixture of old and new.
 *
 *     nbd-serve plugin examples/http-range.ts https://example.org/disk.img
 */
import { setTimeout as delay } from 'node:timers/promises';
import { defineExport, ExportError } from 'nbd-serve';

export interface HttpOptions {
  /** Tries of one range, with pauses that double from `pauseMs` on. */
  readonly attempts: number;
  readonly pauseMs: number;
  /** For one try, its body included. */
  readonly timeoutMs: number;
  /** Requests at a time. */
  readonly concurrency: number;
}

const DEFAULTS: HttpOptions = { attempts: 5, pauseMs: 200, timeoutMs: 20_000, concurrency: 8 };

/** A failure that another try may mend. */
class PassingError extends Error {}

export async function httpDevice(url: string, options: HttpOptions = DEFAULTS) {
  const { attempts, pauseMs, timeoutMs, concurrency } = options;
  const limit = limitTo(concurrency);
  let isChanged = false;

  function request(headers: Readonly<Record<string, string>>): Promise<Response> {
    // Identity: a range of a compressed file would be a range of something else.
    return fetch(url, {
      headers: { 'accept-encoding': 'identity', ...headers },
      signal: AbortSignal.timeout(timeoutMs),
    });
  }

  const probe = await retry(async () => {
    const response = await request({ range: 'bytes=0-0' });
    await assertStatus(response, [200, 206, 416]);
    await response.body?.cancel();
    if (response.status === 200) {
      throw new ExportError('EIO', `${url} is on a server that does not answer range requests`);
    }
    return response;
  });
  const size = sizeIn(probe.headers.get('content-range'));
  const [etag, lastModified] = validatorsOf(probe);
  // If-Range compares strongly (RFC 9110, 13.1.5); a weak one can still be compared with that of each answer.
  const ifRange = etag === null || etag.startsWith('W/') ? lastModified : etag;
  if (etag === null && lastModified === null) {
    throw new Error(`${url} has neither ETag nor Last-Modified: a change would go unseen`);
  }

  async function fetchRange(offset: number, length: number): Promise<Uint8Array> {
    const range = `bytes=${offset}-${offset + length - 1}`;
    const response = await request({ range, ...(ifRange !== null && { 'if-range': ifRange }) });
    await assertStatus(response, [200, 206, 412, 416]);
    const [etagNow, lastModifiedNow] = validatorsOf(response);
    const isSame = etagNow === etag && lastModifiedNow === lastModified;
    if (response.status !== 206 || !isSame || sizeIn(response.headers.get('content-range')) !== size) {
      isChanged = true;
      await response.body?.cancel();
      return refuseChanged();
    }
    const body = new Uint8Array(await response.arrayBuffer());
    if (response.headers.get('content-range') !== `bytes ${offset}-${offset + length - 1}/${size}`) {
      throw new PassingError(`another range than ${range} came`);
    }
    if (body.length !== length) {
      throw new PassingError(`${body.length} bytes came for ${range}`);
    }
    return body;
  }

  function refuseChanged(): never {
    throw new ExportError('EIO', `${url} has changed since it was opened`);
  }

  /** Tries until it works, fails for good, or has failed too often. */
  async function retry<T>(work: () => Promise<T>): Promise<T> {
    for (let attempt = 1; ; attempt += 1) {
      try {
        return await work();
      } catch (error) {
        // What fetch itself rejects with is about the connection: refused, reset, cut short, too late.
        if (error instanceof ExportError || attempt >= attempts) {
          throw error;
        }
      }
      await delay(pauseMs * 2 ** (attempt - 1));
    }
  }

  return defineExport({
    size,
    description: url,
    // A round trip costs more than 64 KiB on most networks.
    blockSize: { preferred: 64 * 1024 },
    read: (offset, length) =>
      limit(() => retry(async () => (isChanged ? refuseChanged() : await fetchRange(offset, length)))),
  });
}

/** Refuses other answers; those of an overloaded or restarting server may be better next time. */
async function assertStatus(response: Response, expected: readonly number[]): Promise<void> {
  const { status, url } = response;
  if (expected.includes(status)) {
    return;
  }
  await response.body?.cancel();
  const text = `${url} answers ${status}`;
  throw status >= 500 || status === 408 || status === 429
    ? new PassingError(text)
    : new ExportError('EIO', text);
}

/** The size at the end of `bytes 0-0/1000` or, for an empty file, of `bytes *\/0`. */
function sizeIn(contentRange: string | null): number {
  const size = Number(/^bytes .*\/(\d+)$/.exec(contentRange ?? '')?.[1] ?? Number.NaN);
  if (!Number.isSafeInteger(size)) {
    throw new ExportError(
      'EIO',
      `The server does not say how long the file is (Content-Range: ${contentRange})`,
    );
  }
  return size;
}

function validatorsOf({ headers }: Response): [etag: string | null, lastModified: string | null] {
  return [headers.get('etag'), headers.get('last-modified')];
}

/** At most `count` at a time; the others wait for their turn. */
function limitTo(count: number): <T>(work: () => Promise<T>) => Promise<T> {
  const waiting: (() => void)[] = [];
  let free = count;
  return async (work) => {
    if (free > 0) {
      free -= 1;
    } else {
      await new Promise<void>((resolve) => waiting.push(resolve));
    }
    try {
      return await work();
    } finally {
      const next = waiting.shift();
      if (next === undefined) {
        free += 1;
      } else {
        next();
      }
    }
  };
}

export default ([url, attempts, pauseMs, timeoutMs, concurrency]: readonly string[]) => {
  if (url === undefined) {
    throw new Error('Give the URL of a file');
  }
  return httpDevice(url, {
    attempts: Number(attempts ?? DEFAULTS.attempts),
    pauseMs: Number(pauseMs ?? DEFAULTS.pauseMs),
    timeoutMs: Number(timeoutMs ?? DEFAULTS.timeoutMs),
    concurrency: Number(concurrency ?? DEFAULTS.concurrency),
  });
};
