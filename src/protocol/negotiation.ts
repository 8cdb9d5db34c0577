/**
 * What each option decides, and what has been agreed on so far. Options come in whole and decisions go out
 * as values: handshake.ts reads the ones and carries out the others.
 */
import {
  NBD_OPT_ABORT,
  NBD_OPT_EXPORT_NAME,
  NBD_OPT_EXTENDED_HEADERS,
  NBD_OPT_GO,
  NBD_OPT_INFO,
  NBD_OPT_LIST,
  NBD_OPT_LIST_META_CONTEXT,
  NBD_OPT_SET_META_CONTEXT,
  NBD_OPT_STARTTLS,
  NBD_OPT_STRUCTURED_REPLY,
  NBD_REP_ACK,
  NBD_REP_ERR_EXT_HEADER_REQD,
  NBD_REP_ERR_INVALID,
  NBD_REP_ERR_POLICY,
  NBD_REP_ERR_SHUTDOWN,
  NBD_REP_ERR_TLS_REQD,
  NBD_REP_ERR_TOO_BIG,
  NBD_REP_ERR_UNSUP,
} from './constants.ts';
import { type ExportInfo, transmissionFlags } from './export-info.ts';
import type { Option } from './option-reader.ts';
import { encodeOptionReply } from './options/frame.ts';
import { decodeExportName, decodeGo, encodeExportNameReply, encodeInfoReplies } from './options/go.ts';
import {
  decodeMetaContext,
  encodeMetaContext,
  listContexts,
  type MetaContext,
  selectContexts,
} from './options/meta-context.ts';
import type { ReplyForm } from './reply.ts';
import { type Violation, violation } from './violation.ts';

/** The TLS mode of a connection: NOTLS, SELECTIVETLS without TLS-only exports, FORCEDTLS in proto.md, "TLS". */
export type TlsMode = 'off' | 'allow' | 'require';

/** What a finished handshake hands to transmission. */
export interface Negotiated {
  readonly info: ExportInfo;
  readonly replyForm: ReplyForm;
  /** The contexts that BLOCK_STATUS answers for; may be empty. */
  readonly metaContexts: readonly MetaContext[];
}

/** What `find-export` asks for: `open` when transmission is to begin with it, else only its description. */
export interface ExportQuestion {
  readonly exportName: string;
  readonly purpose: 'open' | 'describe';
}

/** What an option answers once its export is known. `negotiated`: transmission begins. */
export interface Granted {
  readonly replies: readonly Uint8Array[];
  readonly negotiated?: Negotiated;
}

export type Decision =
  | { readonly kind: 'acknowledge' | 'abort' | 'list' | 'start-tls' }
  | { readonly kind: 'refuse'; readonly type: number; readonly message: string }
  | { readonly kind: 'violate'; readonly violation: Violation }
  | {
      readonly kind: 'ask';
      readonly question: ExportQuestion;
      readonly grant: (info: ExportInfo) => Granted;
    };

const ACKNOWLEDGE: Decision = { kind: 'acknowledge' };

export class Negotiation {
  readonly #isFixedNewstyle: boolean;
  readonly #isPadded: boolean;
  readonly #tls: TlsMode;
  #isTlsUp = false;
  #isShuttingDown = false;
  /** `extended` also stands for the longer requests. */
  #replyForm: ReplyForm = 'simple';
  #selection: { readonly exportName: string; readonly contexts: readonly MetaContext[] } | undefined;

  /** `isPadded`: the reply to EXPORT_NAME is followed by zeros. */
  constructor(isFixedNewstyle: boolean, isPadded: boolean, tls: TlsMode) {
    this.#isFixedNewstyle = isFixedNewstyle;
    this.#isPadded = isPadded;
    this.#tls = tls;
  }

  /** What was agreed on in plaintext may be the work of someone in between: it is forgotten (CVE-2021-3716). */
  tlsStarted(): void {
    this.#isTlsUp = true;
    this.#replyForm = 'simple';
    this.#selection = undefined;
  }

  shutDown(): void {
    this.#isShuttingDown = true;
  }

  decide(option: Option): Decision {
    if (option.number === NBD_OPT_ABORT) {
      return { kind: 'abort' };
    }
    if (option.number === NBD_OPT_EXPORT_NAME) {
      return this.#decideExportName(option);
    }
    // Before ERR_SHUTDOWN: a client in plaintext MUST learn nothing else.
    if (this.#needsTls && this.#isFixedNewstyle && option.number !== NBD_OPT_STARTTLS) {
      return refuse(NBD_REP_ERR_TLS_REQD, 'This server needs STARTTLS first');
    }
    if (this.#isShuttingDown) {
      return refuse(NBD_REP_ERR_SHUTDOWN, 'The server is shutting down');
    }
    if (!this.#isFixedNewstyle) {
      // TLS, too: without fixed newstyle a connection MUST NOT use it ("TLS").
      return refuse(NBD_REP_ERR_INVALID, 'Options need a client with fixed newstyle');
    }
    switch (option.number) {
      case NBD_OPT_LIST:
        return refuseData(option) ?? { kind: 'list' };
      case NBD_OPT_STARTTLS:
        return refuseData(option) ?? this.#decideStartTls();
      case NBD_OPT_STRUCTURED_REPLY:
        return refuseData(option) ?? this.#decideStructuredReply();
      case NBD_OPT_EXTENDED_HEADERS:
        return refuseData(option) ?? this.#decideExtendedHeaders();
      case NBD_OPT_INFO:
      case NBD_OPT_GO:
        return this.#decideGo(option);
      case NBD_OPT_LIST_META_CONTEXT:
      case NBD_OPT_SET_META_CONTEXT:
        return this.#decideMetaContext(option);
      default:
        return refuse(NBD_REP_ERR_UNSUP, `Option ${option.number} is not supported`);
    }
  }

  /** TLS is required and not there: nothing may be said of any export. */
  get #needsTls(): boolean {
    return this.#tls === 'require' && !this.#isTlsUp;
  }

  #decideStartTls(): Decision {
    if (this.#tls === 'off') {
      return refuse(NBD_REP_ERR_POLICY, 'TLS is switched off on this server');
    }
    return this.#isTlsUp ? refuse(NBD_REP_ERR_INVALID, 'TLS is in use already') : { kind: 'start-tls' };
  }

  #decideStructuredReply(): Decision {
    switch (this.#replyForm) {
      case 'simple':
        this.#replyForm = 'structured';
        return ACKNOWLEDGE;
      case 'structured':
        return refuse(NBD_REP_ERR_INVALID, 'Structured replies are negotiated already');
      case 'extended':
        return refuse(NBD_REP_ERR_EXT_HEADER_REQD, 'Extended headers are negotiated and take precedence');
    }
  }

  #decideExtendedHeaders(): Decision {
    if (this.#replyForm === 'extended') {
      return refuse(NBD_REP_ERR_INVALID, 'Extended headers are negotiated already');
    }
    this.#replyForm = 'extended';
    return ACKNOWLEDGE;
  }

  #decideExportName(option: Option): Decision {
    if (this.#needsTls) {
      // Also for a client without fixed newstyle, which can never start it.
      return violate('ERR_NBD_EXPORT_REFUSED', 'EXPORT_NAME without TLS, which this server needs');
    }
    if (this.#replyForm === 'extended') {
      // "NBD_OPT_EXTENDED_HEADERS": the client MUST use GO, and there is no error reply.
      return violate('ERR_NBD_EXPORT_REFUSED', 'EXPORT_NAME after EXTENDED_HEADERS, which needs GO');
    }
    const exportName = option.isTooLong ? undefined : decodeExportName(option.data);
    if (exportName === undefined) {
      return violate('ERR_NBD_EXPORT_REFUSED', 'EXPORT_NAME with a malformed name');
    }
    if (this.#isShuttingDown) {
      return violate('ERR_NBD_EXPORT_REFUSED', 'The server is shutting down');
    }
    return ask(exportName, 'open', (info) => ({
      replies: [encodeExportNameReply(info, this.#flagsOf(exportName, info), this.#isPadded)],
      negotiated: this.#negotiated(exportName, info),
    }));
  }

  #decideGo(option: Option): Decision {
    const isGo = option.number === NBD_OPT_GO;
    if (option.isTooLong) {
      return refuse(NBD_REP_ERR_TOO_BIG, 'The option is too long');
    }
    const go = decodeGo(option.data);
    if (go === undefined) {
      return refuse(NBD_REP_ERR_INVALID, 'Malformed INFO or GO');
    }
    return ask(go.exportName, isGo ? 'open' : 'describe', (info) => {
      const replies = [
        ...encodeInfoReplies(option.number, info, go.infoTypes, this.#flagsOf(go.exportName, info)),
        encodeOptionReply(option.number, NBD_REP_ACK),
      ];
      return isGo ? { replies, negotiated: this.#negotiated(go.exportName, info) } : { replies };
    });
  }

  #decideMetaContext(option: Option): Decision {
    const isSet = option.number === NBD_OPT_SET_META_CONTEXT;
    if (isSet) {
      // "Metadata querying": a SET replaces the earlier selection even when it fails.
      this.#selection = undefined;
    }
    const decoded = option.isTooLong ? 'too-big' : decodeMetaContext(option.data);
    if (decoded === 'invalid') {
      return refuse(NBD_REP_ERR_INVALID, 'Malformed meta context option');
    }
    if (decoded === 'too-big') {
      return refuse(NBD_REP_ERR_TOO_BIG, 'Too many meta context queries, or too long an option');
    }
    // Never ERR_EXT_HEADER_REQD: the status of every context that we offer fits in 32 bits.
    if (isSet && this.#replyForm === 'simple') {
      return refuse(NBD_REP_ERR_INVALID, 'Meta contexts need structured replies or extended headers');
    }
    const { exportName, queries } = decoded;
    return ask(exportName, 'describe', (info) => {
      const contexts = isSet
        ? selectContexts(queries, info.metaContexts)
        : listContexts(queries, info.metaContexts);
      if (isSet) {
        this.#selection = { exportName, contexts };
      }
      return {
        replies: [
          ...contexts.map((context) => encodeMetaContext(option.number, context)),
          encodeOptionReply(option.number, NBD_REP_ACK),
        ],
      };
    });
  }

  #negotiated(exportName: string, info: ExportInfo): Negotiated {
    return { info, replyForm: this.#replyForm, metaContexts: this.#contextsOf(exportName) };
  }

  /** A selection counts only for the very name it was made for ("Metadata querying"). */
  #contextsOf(exportName: string): readonly MetaContext[] {
    return this.#selection?.exportName === exportName ? this.#selection.contexts : [];
  }

  #flagsOf(exportName: string, info: ExportInfo): number {
    return transmissionFlags(info, this.#replyForm, this.#contextsOf(exportName).length > 0);
  }
}

function ask(
  exportName: string,
  purpose: ExportQuestion['purpose'],
  grant: (info: ExportInfo) => Granted,
): Decision {
  return { kind: 'ask', question: { exportName, purpose }, grant };
}

function refuse(type: number, message: string): Decision {
  return { kind: 'refuse', type, message };
}

/** For the options that take no data. */
function refuseData({ data, isTooLong }: Option): Decision | undefined {
  return data.length > 0 || isTooLong ? refuse(NBD_REP_ERR_INVALID, 'The option takes no data') : undefined;
}

function violate(code: Violation['code'], message: string): Decision {
  return { kind: 'violate', violation: violation(code, message) };
}
