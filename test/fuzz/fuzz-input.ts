/**
 * One input of the fuzz run: how the session is set up, how its bytes are split, and the bytes. `runInput` plays
 * it to the session core and throws when an invariant does not hold:
 *
 *   - nothing throws, and no call of `next` is made in vain for ever
 *   - no memory follows a claim: what is allocated is bounded by what has arrived
 *   - the answers, options and requests alike, decode with the naive client
 *   - another split of the same bytes gives the same answers
 */
import { PAYLOAD_BYTES_MAX } from '../../src/limits.ts';
import type { ExportInfo } from '../../src/protocol/export-info.ts';
import type { TlsMode } from '../../src/protocol/handshake.ts';
import { encodeBlockStatus, encodeError, type ReplyForm } from '../../src/protocol/reply.ts';
import { Session, type SessionStep } from '../../src/protocol/session.ts';
import { Cursor, hex, toHex } from '../protocol/bytes.ts';
import { DISK } from '../protocol/exports.ts';
import { CMD, decodeOptionReplies, decodeReplyChunks } from '../protocol/naive-client.ts';

export interface FuzzInput {
  /** 0 off, 1 allow, 2 require. */
  readonly tls: number;
  /** Which export: 0 all features, 1 read-only, 2 blocks of 512 bytes, 3 no feature at all. */
  readonly disk: number;
  /** After this many pieces the server shuts down; 0 for never. */
  readonly shutDownAfter: number;
  /** Bytes of each piece in turn, over and over; none for all at once. */
  readonly pieces: readonly number[];
  readonly bytes: Uint8Array;
}

const TLS_MODES: readonly TlsMode[] = ['off', 'allow', 'require'];

const DISKS: readonly ExportInfo[] = [
  DISK,
  { ...DISK, isReadOnly: true },
  { ...DISK, blockSize: { minimum: 512, preferred: 4096 } },
  {
    ...DISK,
    ...{ metaContexts: [], canFlush: false, canFua: false, canTrim: false, canZero: false },
    ...{ canFastZero: false, canCache: false, canMultiConn: false },
  },
];

/** Bytes that a session may allocate for each answer, beside a multiple of what has arrived: headers, messages. */
const ALLOCATION_SLACK_BYTES = 1024;

/** Where every payload goes that is not borrowed: one array for all runs. */
const ROOM = new Uint8Array(PAYLOAD_BYTES_MAX);

/** Features of what happened, for guidance: each kind of step behind each other kind. */
export type Features = ReadonlySet<string>;

/** Counts what is allocated by a given length while it is installed. */
class AllocationCounter {
  bytes = 0;
  readonly #original = globalThis.Uint8Array;

  readonly #counting = new Proxy(globalThis.Uint8Array, {
    construct: (target, parameters: unknown[]) => {
      const [length] = parameters;
      if (typeof length === 'number') this.bytes += length;
      return Reflect.construct(target, parameters);
    },
  });

  during<T>(act: () => T): T {
    globalThis.Uint8Array = this.#counting;
    try {
      return act();
    } finally {
      globalThis.Uint8Array = this.#original;
    }
  }
}

class Player {
  readonly session: Session;
  readonly features = new Set<string>();
  /** What happened, in words that do not depend on the split. */
  readonly log: string[] = [];
  isOver = false;
  readonly #disk: ExportInfo;
  readonly #counter = new AllocationCounter();
  /** All option replies, as they came. */
  readonly #output: string[] = [];
  #arrived = 0;
  #last = 'begin';

  constructor({ tls, disk }: FuzzInput) {
    this.#disk = DISKS[disk] ?? DISK;
    this.session = new Session({ tls: TLS_MODES[tls] ?? 'off' });
  }

  receive(piece: Uint8Array): void {
    if (this.isOver) return;
    this.#arrived += piece.length;
    // The driver reuses its buffer; the session must not depend on it any more.
    const buffer = piece.slice();
    this.#counter.during(() => {
      this.session.receive(buffer, buffer.length);
    });
    for (let steps = 2 * piece.length + 16; ; steps -= 1) {
      if (steps === 0) throw new Error(`More than ${2 * piece.length + 16} steps for ${piece.length} bytes`);
      const step = this.#counter.during(() => this.session.next());
      const allocationMax = 4 * this.#arrived + ALLOCATION_SLACK_BYTES * (1 + this.log.length);
      if (this.#counter.bytes > allocationMax) {
        throw new Error(`${this.#counter.bytes} bytes were allocated for ${this.#arrived} that arrived`);
      }
      if (step === 'need-input') break;
      this.#serve(step);
      if (this.isOver) break;
    }
    buffer.fill(0xee);
  }

  end(): void {
    const bytes = hex(this.#output.join(''));
    if (bytes.length === 0) return;
    // The reply of EXPORT_NAME is the last one and has no header: 10 bytes, or 134 with the zeroes.
    const isHeaderless = this.log.includes('open') && this.session.negotiated !== undefined;
    const ends = isHeaderless ? [bytes.length, bytes.length - 10, bytes.length - 134] : [bytes.length];
    let failure: unknown;
    for (const end of ends) {
      if (end < 0) continue;
      try {
        decodeOptionReplies(bytes.subarray(0, end));
        return;
      } catch (error) {
        failure ??= error;
      }
    }
    throw failure;
  }

  #note(token: string, logged = token): void {
    this.log.push(logged);
    this.features.add(`${this.#last}>${token}`);
    this.#last = token;
  }

  #serve(step: SessionStep): void {
    const { session } = this;
    switch (step) {
      case 'output': {
        const output = session.takeOutput().map(toHex).join('');
        this.#output.push(output);
        // Option and type of the first reply tell what it was about; options that nobody knows are all the same.
        const option = output.slice(16, 24);
        const kind = option > '0000000c' ? 'unknown' : option;
        this.#note(`output ${kind} ${output.slice(24, 32)}`, `output ${output}`);
        return;
      }
      case 'find-export': {
        const { exportName, purpose } = session.exportQuestion;
        this.#note(purpose, `${purpose}`);
        const isKnown = exportName === '' || exportName === 'disk';
        session.answerExport(isKnown ? this.#disk : { type: 0x80000006, message: 'No such export' });
        return;
      }
      case 'list-exports':
        this.#note(step);
        session.answerList([{ name: 'disk', description: 'A disk' }]);
        return;
      case 'start-tls':
        this.#note(step);
        session.tlsStarted();
        return;
      case 'payload':
        if (session.request.length > PAYLOAD_BYTES_MAX) {
          throw new Error(`Room for ${session.request.length} bytes was asked for`);
        }
        session.providePayload(ROOM, 0);
        return;
      case 'request':
        return this.#answer();
      case 'refused': {
        const { errno, message } = session.refusal;
        this.#note(`refused ${session.request.type & 0xf} ${errno}`, `refused ${this.#requestText} ${errno}`);
        this.#decodeReply(encodeError(this.#form, session.request, errno, message));
        return;
      }
      case 'disconnect':
        this.#note(step);
        this.isOver = true;
        return;
      case 'violation':
        if (session.violation === undefined) throw new Error('A violation of nothing');
        this.#note(`violation ${session.violation.code}`);
        this.isOver = true;
        return;
      case 'need-input':
        return;
    }
  }

  get #form(): ReplyForm {
    const { negotiated } = this.session;
    if (negotiated === undefined) throw new Error('A request before transmission');
    return negotiated.replyForm;
  }

  get #requestText(): string {
    const { type, flags, cookieHigh, cookieLow, offset, length } = this.session.request;
    return [type, flags, cookieHigh, cookieLow, offset, length].join(' ');
  }

  /** What the dispatcher may rely on, and a reply in the form that was negotiated. */
  #answer(): void {
    const { session } = this;
    const { request } = session;
    const { type, flags, offset, length } = request;
    const { size } = this.#disk;
    if (
      ![CMD.READ, CMD.WRITE, CMD.FLUSH, CMD.TRIM, CMD.CACHE, CMD.WRITE_ZEROES, CMD.BLOCK_STATUS].some(
        (each) => each === type,
      )
    ) {
      throw new Error(`Command ${type} is to be executed`);
    }
    if (!(offset >= 0 && length >= 0 && offset + length <= size)) {
      throw new Error(`${offset} + ${length} is outside the export`);
    }
    if (this.#disk.isReadOnly && (type === CMD.WRITE || type === CMD.TRIM || type === CMD.WRITE_ZEROES)) {
      throw new Error('A read-only export is to be written');
    }
    if ((offset | length) % this.#disk.blockSize.minimum !== 0) throw new Error('The request is not aligned');
    if (type === CMD.READ && length > PAYLOAD_BYTES_MAX) throw new Error(`A READ of ${length} bytes`);
    let data = '';
    if (type === CMD.WRITE) {
      const { payload, payloadStart } = session;
      if (payload.length - payloadStart < length) throw new Error('A WRITE without all of its data');
      data = toHex(payload.subarray(payloadStart, payloadStart + length));
    }
    this.#note(`request ${type} ${flags} ${this.#form}`, `request ${this.#requestText} ${data}`);
    if (type === CMD.BLOCK_STATUS) {
      this.#decodeReply(this.#status());
    }
  }

  #status(): Uint8Array {
    const { request, negotiated } = this.session;
    const form = this.#form;
    if (form === 'simple') throw new Error('BLOCK_STATUS with simple replies');
    const ids = negotiated?.metaContexts.map(({ id }) => id) ?? [];
    if (ids.length === 0) throw new Error('BLOCK_STATUS without a context');
    const extents = [{ length: Math.max(1, Math.min(request.length, 4096)), status: 3 }];
    const contexts = ids.map((id) => ({ id, extents }));
    return encodeBlockStatus(form, request, contexts, request.length, (request.flags & 8) !== 0);
  }

  #decodeReply(bytes: Uint8Array): void {
    if (this.#form !== 'simple') {
      decodeReplyChunks(bytes);
      return;
    }
    const cursor = new Cursor(bytes);
    if (cursor.u32() !== 0x67446698 || cursor.u32() === 0) throw new Error('An error without an error value');
    if (cursor.rest !== 8) throw new Error('A simple error of the wrong length');
  }
}

/** `bytes` in pieces; behind a STARTTLS there is always a cut, or no session would ever get TLS. */
function cut(bytes: Uint8Array, pieces: readonly number[], isTls: boolean): Uint8Array[] {
  const cuts: Uint8Array[] = [];
  const text = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length);
  const borders = new Set<number>();
  if (isTls) {
    for (let at = text.indexOf(STARTTLS); at !== -1; at = text.indexOf(STARTTLS, at + 1)) {
      borders.add(at + STARTTLS.length);
    }
  }
  let start = 0;
  let index = 0;
  while (start < bytes.length) {
    const length = pieces.length === 0 ? bytes.length : Math.max(1, pieces[index % pieces.length] ?? 1);
    index += 1;
    let end = Math.min(bytes.length, start + length);
    for (const border of borders) if (border > start && border < end) end = border;
    cuts.push(bytes.subarray(start, end));
    start = end;
  }
  return cuts;
}

const STARTTLS = Buffer.from('49484156454f50540000000500000000', 'hex');

function play(input: FuzzInput, pieces: readonly number[]): Player {
  const player = new Player(input);
  let count = 0;
  for (const piece of cut(input.bytes, pieces, input.tls > 0)) {
    player.receive(piece);
    count += 1;
    if (count === input.shutDownAfter) player.session.shutDown();
  }
  player.end();
  return player;
}

export function runInput(input: FuzzInput): Features {
  const player = play(input, input.pieces);
  // A shutdown between two pieces, and plaintext behind STARTTLS, depend on the split.
  if (input.shutDownAfter === 0 && input.tls === 0) {
    const [one, other] = [player.log, play(input, input.pieces.length === 0 ? [7, 1, 64] : []).log];
    const at = one.findIndex((entry, index) => entry !== other[index]);
    if (at !== -1 || one.length !== other.length) {
      throw new Error(`Another split gives something else at step ${at}: ${one[at]}, ${other[at]}`);
    }
  }
  return player.features;
}

/** The file format of test/fuzz/seeds: what a line begins with is its field; # begins a comment. */
export function formatInput({ tls, disk, shutDownAfter, pieces, bytes }: FuzzInput, comment: string): string {
  const lines = toHex(bytes).match(/.{1,96}/g) ?? [];
  return `${[
    ...comment.split('\n').map((line) => `# ${line}`),
    `tls ${tls}`,
    `disk ${disk}`,
    `shut-down-after ${shutDownAfter}`,
    `pieces ${pieces.join(' ')}`.trimEnd(),
    ...lines.map((line) => `bytes ${line}`),
  ].join('\n')}\n`;
}

export function parseInput(text: string): FuzzInput {
  const fields = new Map<string, string>();
  for (const line of text.split('\n')) {
    const [, name, value] = /^([a-z-]+) ?(.*)$/.exec(line) ?? [];
    if (name !== undefined) fields.set(name, `${fields.get(name) ?? ''}${value}`);
  }
  const number = (name: string): number => Number(fields.get(name) ?? 0);
  return {
    tls: number('tls'),
    disk: number('disk'),
    shutDownAfter: number('shut-down-after'),
    pieces: (fields.get('pieces') ?? '').split(' ').filter(Boolean).map(Number),
    bytes: hex(fields.get('bytes') ?? ''),
  };
}
