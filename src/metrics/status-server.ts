/**
 * The HTTP side of `--metrics`: read-only, small, and of no use to other web sites. A page of another site may
 * make a browser on this machine ask us, under a name of its own that it has pointed to 127.0.0.1 (DNS
 * rebinding); so on a loopback address only an address or `localhost` is accepted as the host. What a browser may
 * do with our page is confined to our own files.
 */
import { once } from 'node:events';
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import { type AddressInfo, isIP, isIPv6, type Socket } from 'node:net';
import { METRICS_CONNECTION_COUNT_MAX } from '../limits.ts';
import type { Logger } from '../log.ts';
import { ASSETS, loadAsset } from './assets.ts';
import { renderPage } from './page/html.ts';
import { PROMETHEUS_CONTENT_TYPE, renderPrometheus } from './prometheus.ts';
import { StatusCollector, type StatusPair, type StatusSource } from './status-collector.ts';

/** From the connection, or the end of a response, to the last byte of a request's header. */
const REQUEST_MS = 15_000;

/** A response of which nothing is taken for this long is given up. */
const STALL_MS = 10_000;

const HEADER_BYTES_MAX = 8 * 1024;

/** Node looks after all connections every 30 s otherwise, which wakes an idle server: each has a deadline here. */
const NEVER_MS = 2 ** 31 - 1;

const HEADERS = {
  'Content-Security-Policy':
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; " +
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
  'Cross-Origin-Resource-Policy': 'same-origin',
  'Referrer-Policy': 'no-referrer',
  'X-Content-Type-Options': 'nosniff',
  'Cache-Control': 'no-store',
};

export interface StatusAddress {
  /** Numeric. */
  readonly address: string;
  /** 0 picks a free one. */
  readonly port: number;
  readonly isLoopback: boolean;
}

interface Content {
  readonly type: string;
  readonly body: string | Buffer;
}

export class StatusServer implements AsyncDisposable {
  /** Of the page; ends with a slash. */
  readonly url: string;
  readonly #http: Server;
  readonly #isLoopback: boolean;
  readonly #log: Logger;
  #collector: StatusCollector | undefined;
  /** What was made of a status, for whoever asks within the same second. */
  #rendered: { readonly pair: StatusPair; readonly contents: Map<string, Promise<Content>> } | undefined;

  private constructor(http: Server, isLoopback: boolean, log: Logger) {
    const { address, port } = http.address() as AddressInfo;
    this.url = `http://${isIPv6(address) ? `[${address}]` : address}:${port}/`;
    this.#http = http;
    this.#isLoopback = isLoopback;
    this.#log = log;
    http.on('request', (request, response) => void this.#answer(request, response));
    http.on('error', (error) => log.warn({ err: error }, 'The metrics server cannot accept connections'));
  }

  /** Rejects with the error of listen(2), whose `code` says why. */
  static async listen({ address, port, isLoopback }: StatusAddress, log: Logger): Promise<StatusServer> {
    const http = createServer({
      maxHeaderSize: HEADER_BYTES_MAX,
      connectionsCheckingInterval: NEVER_MS,
      keepAliveTimeout: STALL_MS,
    });
    http.maxConnections = METRICS_CONNECTION_COUNT_MAX;
    http.timeout = STALL_MS;
    setDeadlines(http);
    http.listen({ host: address, port, exclusive: true });
    await once(http, 'listening');
    return new StatusServer(http, isLoopback, log);
  }

  /** From now on there is something to show. */
  show(source: StatusSource): void {
    this.#collector = new StatusCollector(source, this.#log);
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  /** Cuts all connections; resolves when nothing uses the exports any more. */
  async close(): Promise<void> {
    this.#http.close();
    this.#http.closeAllConnections();
    await this.#collector?.close();
  }

  async #answer(request: IncomingMessage, response: ServerResponse): Promise<void> {
    try {
      const isHead = request.method === 'HEAD';
      if (!isHead && request.method !== 'GET') {
        response.setHeader('Allow', 'GET, HEAD');
        return respond(response, 405, plain('Only GET and HEAD are answered here.'), isHead);
      }
      if (this.#isLoopback && !isLocalHost(request.headers.host)) {
        const text = 'Ask by an IP address or as localhost; other names could be tricks of other web sites.';
        return respond(response, 403, plain(text), isHead);
      }
      const path = request.url?.split('?', 1)[0] ?? '';
      const content = await this.#content(path);
      if (content !== undefined) {
        return respond(response, 200, content, isHead);
      }
      const isKnown = RENDERERS.has(path);
      const text = isKnown ? 'The server is not serving yet.' : 'There are / and /metrics here.';
      return respond(response, isKnown ? 503 : 404, plain(text), isHead);
    } catch (error) {
      this.#log.error({ err: error, url: request.url }, 'A request for metrics failed');
      respond(response, 500, plain('This failed; the log of the server says why.'), false);
    }
  }

  /** Undefined: there is no such thing, or not yet. */
  async #content(path: string): Promise<Content | undefined> {
    const asset = ASSETS.get(path);
    if (asset !== undefined) {
      return { type: asset.type, body: await loadAsset(asset) };
    }
    const render = RENDERERS.get(path);
    const pair = render && (await this.#collector?.collect());
    if (render === undefined || pair === undefined) {
      return undefined;
    }
    if (this.#rendered?.pair !== pair) {
      this.#rendered = { pair, contents: new Map() };
    }
    const { contents } = this.#rendered;
    const content = contents.get(path) ?? render(pair);
    contents.set(path, content);
    return content;
  }
}

const RENDERERS: ReadonlyMap<string, (pair: StatusPair) => Promise<Content>> = new Map([
  ['/', async (pair) => ({ type: 'text/html; charset=utf-8', body: renderPage(pair.now, pair.before) })],
  ['/status.json', async ({ now }) => ({ type: 'application/json', body: JSON.stringify(now) })],
  ['/metrics', async ({ now }) => ({ type: PROMETHEUS_CONTENT_TYPE, body: await renderPrometheus(now) })],
]);

/** Destroys connections that do not send a whole request in time, however they trickle. */
function setDeadlines(http: Server): void {
  const deadlines = new WeakMap<Socket, NodeJS.Timeout>();
  const start = (socket: Socket): void => {
    if (!socket.destroyed) {
      deadlines.set(
        socket,
        setTimeout(() => socket.destroy(), REQUEST_MS),
      );
    }
  };
  const stop = (socket: Socket): void => clearTimeout(deadlines.get(socket));
  http.on('connection', (socket) => {
    start(socket);
    socket.once('close', () => stop(socket));
  });
  http.on('request', ({ socket }, response) => {
    stop(socket);
    response.once('finish', () => start(socket));
  });
}

function plain(text: string): Content {
  return { type: 'text/plain; charset=utf-8', body: `${text}\n` };
}

function respond(response: ServerResponse, code: number, { type, body }: Content, isHead: boolean): void {
  response.writeHead(code, { ...HEADERS, 'Content-Type': type, 'Content-Length': Buffer.byteLength(body) });
  response.end(isHead ? undefined : body);
}

/** Whether a Host header names this machine by address: no name that somebody else can point here. */
function isLocalHost(host: string | undefined): boolean {
  const name = host?.replace(/:\d*$/, '').toLowerCase() ?? '';
  return name === 'localhost' || isIP(name.replace(/^\[(.*)\]$/, '$1')) !== 0;
}
