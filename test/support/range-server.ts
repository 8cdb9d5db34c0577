/** A web server for one file, which answers range requests, and goes wrong when it is told to. */
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';

/** What is done to one request in place of a right answer. */
export type Fault = 'reset' | 'truncate' | 'unavailable' | 'hang' | 'other range' | 'forbidden';

export class RangeServer implements AsyncDisposable {
  /** Taken one by one by range requests, the first one (the probe) included; then all are answered rightly. */
  readonly faults: (Fault | undefined)[] = [];
  /** The Range headers that came. */
  readonly ranges: string[] = [];
  content: Buffer;
  etag: string | undefined = '"one"';
  lastModified: string | undefined;
  answersRanges = true;
  /** Most requests that were under way at a time. */
  concurrency = 0;
  /** Milliseconds before an answer, so that requests meet. */
  pauseMs = 0;
  #underWay = 0;
  readonly #server: Server;

  constructor(content: Buffer) {
    this.content = content;
    this.#server = createServer((request, response) => this.#receive(request, response));
  }

  static async start(content: Buffer): Promise<RangeServer> {
    const server = new RangeServer(content);
    await new Promise<void>((resolve) => {
      server.#server.listen(0, '127.0.0.1', resolve);
    });
    return server;
  }

  get url(): string {
    return `http://127.0.0.1:${(this.#server.address() as AddressInfo).port}/disk.img`;
  }

  #receive(request: IncomingMessage, response: ServerResponse): void {
    this.#underWay += 1;
    this.concurrency = Math.max(this.concurrency, this.#underWay);
    response.on('close', () => {
      this.#underWay -= 1;
    });
    this.ranges.push(request.headers.range ?? '');
    setTimeout(() => this.#answer(request, response), this.pauseMs);
  }

  #answer(request: IncomingMessage, response: ServerResponse): void {
    const fault = this.faults.shift();
    if (fault === 'reset') return void request.socket.destroy();
    if (fault === 'hang') return;
    if (fault === 'unavailable') return void response.writeHead(503).end('try later');
    if (fault === 'forbidden') return void response.writeHead(403).end();
    if (this.etag !== undefined) response.setHeader('ETag', this.etag);
    if (this.lastModified !== undefined) response.setHeader('Last-Modified', this.lastModified);
    const ifRange = request.headers['if-range'];
    const isSame = ifRange === undefined || ifRange === this.etag || ifRange === this.lastModified;
    const [, first, last] = /^bytes=(\d+)-(\d+)$/.exec(request.headers.range ?? '') ?? [];
    if (!this.answersRanges || !isSame || first === undefined) {
      return void response.writeHead(200, { 'Content-Length': this.content.length }).end(this.content);
    }
    const shift = fault === 'other range' ? 1 : 0;
    const body = this.content.subarray(Number(first) + shift, Number(last) + 1 + shift);
    if (body.length === 0) {
      return void response.writeHead(416, { 'Content-Range': `bytes */${this.content.length}` }).end();
    }
    const start = Number(first) + shift;
    response.writeHead(206, {
      'Content-Length': body.length,
      'Content-Range': `bytes ${start}-${start + body.length - 1}/${this.content.length}`,
    });
    if (fault === 'truncate') {
      response.write(body.subarray(0, body.length / 2), () => request.socket.destroy());
      return;
    }
    response.end(body);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#server.closeAllConnections();
    await new Promise((resolve) => this.#server.close(resolve));
  }
}
