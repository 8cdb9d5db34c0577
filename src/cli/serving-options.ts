/** The options that every serving command shares. */
import { Command, Option } from '@commander-js/extra-typings';
import type { FilterSpec } from '../filters/filter.ts';
import {
  BUSY_POLL_MICROSECONDS_DEFAULT,
  BUSY_POLL_MICROSECONDS_MAX,
  CONNECTION_COUNT_DEFAULT,
  CONNECTION_COUNT_MAX,
  HANDSHAKE_SECONDS_DEFAULT,
  HANDSHAKE_SECONDS_MAX,
  THREAD_COUNT_MAX,
} from '../limits.ts';
import { integerBetween, wireString } from './argument-parsers.ts';
import { collectFilter, FILTER_DESCRIPTION, FILTER_FLAGS, filtersHelp } from './filter-option.ts';
import { type MetricsListen, metricsListen } from './metrics-options.ts';

const LOG_LEVELS = ['trace', 'debug', 'info', 'warn', 'error', 'fatal', 'silent'] as const;

export interface ServingOptions {
  readonly unix?: string | undefined;
  readonly port?: number | undefined;
  readonly bind?: string | undefined;
  readonly allowPlaintext: boolean;
  readonly tls: 'off' | 'allow' | 'require';
  readonly tlsCertificates?: string | undefined;
  readonly tlsPsk?: string | undefined;
  readonly tlsVerifyPeer: boolean;
  readonly exportName: string;
  readonly description: string;
  readonly readOnly: boolean;
  /** As given; undefined: `threadsDefault`. */
  readonly threads?: number | undefined;
  /** Set by commands whose exports know several threads. Default: 1. */
  readonly threadsDefault?: number;
  readonly maxConnections: number;
  readonly handshakeTimeout: number;
  readonly busyPoll: number;
  readonly onFlushError: 'sticky' | 'exit';
  readonly run?: string | undefined;
  readonly exitLast: boolean;
  readonly pidFile?: string | undefined;
  readonly metrics?: MetricsListen | undefined;
  readonly logLevel: (typeof LOG_LEVELS)[number];
  readonly logFormat: 'json' | 'pretty';
  /** The first one is nearest the client. */
  readonly filter: readonly FilterSpec[];
}

/** A subcommand with the shared options; the caller adds its own. */
export function servingCommand(name: string) {
  return new Command(name)
    .option('-U, --unix <path>', 'listen on a Unix socket of mode 0600; "-": a private temporary one')
    .option(
      '-p, --port <number>',
      'listen on a TCP port; 0 picks a free one (default: 10809 without -U)',
      integerBetween(0, 65_535),
    )
    .option('-b, --bind <address>', 'listen on this address or host name (default: 127.0.0.1)')
    .option(
      '--allow-plaintext',
      'listen beyond loopback although clients need not encrypt, also for --metrics',
      false,
    )
    .addOption(
      new Option('--tls <mode>', 'allow: clients may encrypt; require: others are refused')
        .choices(['off', 'allow', 'require'] as const)
        .default('off' as const),
    )
    .option('--tls-certificates <dir>', 'ca-cert.pem, server-cert.pem, server-key.pem, perhaps ca-crl.pem')
    .option('--tls-psk <file>', 'pre-shared keys, a line "username:hexkey" for each client')
    .option(
      '--tls-verify-peer',
      'turn clients away that have neither a certificate of ca-cert.pem nor a key',
      false,
    )
    .option('-e, --export-name <name>', 'name of the export', wireString, '')
    .option('--description <text>', 'text about the export for people', wireString, '')
    .option('-r, --read-only', 'refuse every write', false)
    .addOption(new Option(FILTER_FLAGS, FILTER_DESCRIPTION).argParser(collectFilter).default([], 'none'))
    .option(
      '--threads <count>',
      'threads that serve; each connection belongs to one of them (default: 2 for memory without --filter, where there are as many processors; 1 otherwise)',
      integerBetween(1, THREAD_COUNT_MAX),
    )
    .option(
      '--max-connections <count>',
      'connections at a time',
      integerBetween(1, CONNECTION_COUNT_MAX),
      CONNECTION_COUNT_DEFAULT,
    )
    .option(
      '--handshake-timeout <seconds>',
      'time from accept to the start of transmission',
      integerBetween(1, HANDSHAKE_SECONDS_MAX),
      HANDSHAKE_SECONDS_DEFAULT,
    )
    .option(
      '--busy-poll <microseconds>',
      'poll for so long after a request before sleeping: faster answers at low queue depths; 0: never',
      integerBetween(0, BUSY_POLL_MICROSECONDS_MAX),
      BUSY_POLL_MICROSECONDS_DEFAULT,
    )
    .addOption(
      new Option(
        '--on-flush-error <action>',
        'after acknowledged data was lost: fail every FLUSH and FUA, or also exit',
      )
        .choices(['sticky', 'exit'] as const)
        .default('sticky' as const),
    )
    .option(
      '--run <command>',
      'run it in a shell with $uri, $nbd, $unixsocket, $port and $exportname set, then exit with its status',
    )
    .addOption(
      new Option('--exit-last', 'exit when the last client that opened an export has left')
        .default(false)
        .conflicts('run'),
    )
    .option('--pid-file <path>', 'write the process id here once clients can connect')
    .option(
      '--metrics <[address:]port>',
      'serve metrics for Prometheus at /metrics and a status page at / (default address: 127.0.0.1; beyond loopback: --allow-plaintext)',
      metricsListen,
    )
    .addOption(
      new Option('--log-level <level>', 'what to log to standard error')
        .choices(LOG_LEVELS)
        .default('info' as const),
    )
    .addOption(
      new Option('--log-format <format>', 'json: an object on each line; pretty: text for people')
        .choices(['json', 'pretty'] as const)
        .default('json' as const),
    )
    .addHelpText('after', filtersHelp());
}
