/** The manual page, in the macros of man(7), generated from the command definitions. */
import type { Outline, OutlinedArgument, OutlinedCommand, OutlinedOption } from './outline.ts';

/** `date`: of the page, such as 2026-11-20. */
export function manPage(program: Outline, date: string): string {
  const { name, version, commands, options } = program;
  return `${[
    `.TH ${name.toUpperCase()} 1 ${date} "${name} ${version}" "User Commands"`,
    '.SH NAME',
    `${escaped(name)} \\- NBD server for disk images`,
    '.SH SYNOPSIS',
    ...commands.flatMap((command) => ['.br', synopsis(name, command)]).slice(1),
    '.SH DESCRIPTION',
    ...DESCRIPTION,
    '.SH OPTIONS',
    ...options.flatMap(optionLines),
    '.SH COMMANDS',
    ...commands.flatMap((command) => commandLines(name, command)),
    ...CLOSING_SECTIONS,
  ].join('\n')}\n`;
}

const DESCRIPTION = [
  `Serves disk images over NBD (Network Block Device) to QEMU, libnbd, nbdcopy, fio and the kernel.
Standard output gets one line, the NBD URI, once clients can connect; the log goes to standard error.
Sizes are bytes or binary suffixes K, M, G, T, P and E.`,
  '.PP',
  `A successful FLUSH or FUA means that everything acknowledged before it is on stable storage. Once
acknowledged data is lost, every FLUSH and FUA of that export fails until restart.`,
];

const CLOSING_SECTIONS = [
  '.SH SIGNALS',
  `.TP
.BR SIGTERM ", " SIGINT
Stop accepting, answer what is in flight (5 seconds at most), flush, and exit. A second one ends the server at
once, with the status 128 plus its number.
.TP
.B SIGHUP
Read the TLS files again, for new connections; without TLS it ends the server.`,
  '.SH EXIT STATUS',
  `0 after an orderly end; that of the command with
.BR \\-\\-run ;
else non-zero, also when the last flush failed or acknowledged data was lost.`,
  '.SH ENVIRONMENT',
  `.TP
.BR LISTEN_FDS ", " LISTEN_PID ", " LISTEN_FDNAMES
Listening Unix and TCP sockets that the server was given
.RB ( sd_listen_fds (3)).
They take the place of
.BR \\-\\-unix ,
.B \\-\\-port
and
.BR \\-\\-bind .
.TP
.B NOTIFY_SOCKET
Who is told READY=1, RELOADING=1, STOPPING=1 and a STATUS
.RB ( sd_notify (3)).
.TP
.BR WATCHDOG_USEC ", " WATCHDOG_PID
A sign of life is sent to
.B NOTIFY_SOCKET
at half of this time while the event loop turns.
.TP
.BR uri ", " nbd ", " unixsocket ", " port ", " exportname
Set for the command of
.BR \\-\\-run ;
empty where they do not apply.`,
  '.SH EXAMPLES',
  `.nf
nbd\\-serve file disk.img \\-\\-create 1G \\-\\-cache none \\-\\-unix disk.sock
nbd\\-serve file disk.img \\-\\-read\\-only \\-\\-run 'qemu\\-img convert "$uri" copy.qcow2'
nbd\\-serve directory /srv/images \\-\\-port 0 \\-\\-exit\\-last
.fi`,
  '.SH SEE ALSO',
  `.BR nbdinfo (1),
.BR nbdcopy (1),
.BR qemu\\-img (1),
.BR nbdkit (1),
.BR cachestats (1)`,
];

function commandLines(program: string, command: OutlinedCommand): string[] {
  return [
    `.SS ${escaped(command.name)}`,
    synopsis(program, command),
    '.PP',
    `${escaped(capitalized(command.description))}.`,
    ...command.arguments.flatMap(({ name, description }) => [
      '.TP',
      `.I ${escaped(name)}`,
      description === '' ? '\\&' : escaped(description),
    ]),
    ...command.options.flatMap(optionLines),
  ];
}

function optionLines({ short, long, value, fullDescription }: OutlinedOption): string[] {
  const flags = [short, long]
    .filter((flag) => flag !== undefined)
    .map((flag) => `\\fB${escaped(flag)}\\fR`)
    .join(', ');
  const placeholder = value === undefined ? '' : ` \\fI${escaped(value.name)}\\fR`;
  return ['.TP', `${flags}${placeholder}`, escaped(fullDescription)];
}

function synopsis(program: string, { name, arguments: given }: OutlinedCommand): string {
  return `\\fB${escaped(program)} ${escaped(name)}\\fR [options]${given.map(argumentText).join('')}`;
}

function argumentText({ name, isRepeated }: OutlinedArgument): string {
  return ` \\fI${escaped(name)}\\fR${isRepeated ? '...' : ''}`;
}

function capitalized(text: string): string {
  return text.charAt(0).toUpperCase() + text.slice(1);
}

/** Text as it is: a dot or quote at the start of a line would be a request, a bare hyphen may become another sign. */
function escaped(text: string): string {
  return text.replaceAll('\\', '\\e').replaceAll('-', '\\-').replaceAll(/^[.']/gm, '\\&$&');
}
