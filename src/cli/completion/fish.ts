/** Completion for fish 3 and later. */
import type { Outline, OutlinedCommand, OutlinedOption, ValueKind } from '../outline.ts';

export function fishCompletion({ name, commands, options }: Outline): string {
  return `${[
    `# fish completion for ${name}`,
    `complete -c ${name} -f`,
    ...options.map((option) => optionLine('__fish_use_subcommand', option)),
    ...commands.flatMap(commandLines),
  ].join('\n')}\n`;

  function commandLines(command: OutlinedCommand): string[] {
    const condition = `__fish_seen_subcommand_from ${command.name}`;
    const kind = command.arguments[0]?.kind ?? 'text';
    const offer = offerOf(kind);
    return [
      `complete -c ${name} -n __fish_use_subcommand -a ${command.name} -d ${quoted(command.description)}`,
      ...(offer === '' ? [] : [`complete -c ${name} -n ${quoted(condition)} ${offer}`]),
      ...command.options.map((option) => optionLine(condition, option)),
    ];
  }

  function optionLine(condition: string, { short, long, description, value }: OutlinedOption): string {
    const flags = `${short === undefined ? '' : `-s ${short.slice(1)} `}-l ${long.slice(2)}`;
    // -x: a value that is no file, -r with -F: one that is.
    const offer =
      value === undefined ? '' : ` ${offerOf(value.kind) === '' ? '-x' : `-r ${offerOf(value.kind)}`}`;
    return `complete -c ${name} -n ${quoted(condition)} ${flags}${offer} -d ${quoted(description)}`;
  }
}

function offerOf(kind: ValueKind): string {
  switch (kind) {
    case 'path':
      return '-F';
    case 'directory':
      return "-f -a '(__fish_complete_directories)'";
    case 'text':
      return '';
    default:
      return `-f -a ${quoted(kind.join(' '))}`;
  }
}

function quoted(text: string): string {
  return `'${text.replaceAll(/['\\]/g, '\\$&')}'`;
}
