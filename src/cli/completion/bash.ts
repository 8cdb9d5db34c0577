/** Completion for bash 4.4 and later, without the package bash-completion. */
import type { Outline, OutlinedCommand, OutlinedOption, ValueKind } from '../outline.ts';

export function bashCompletion({ name, commands, options }: Outline): string {
  const fn = `_${name.replaceAll('-', '_')}`;
  const names = commands.map((command) => command.name).join(' ');
  return `# bash completion for ${name}
${fn}() {
  local cur=\${COMP_WORDS[COMP_CWORD]} prev=\${COMP_WORDS[COMP_CWORD-1]} command= word
  # Readline splits --option=value in three.
  if [ "$cur" = '=' ]; then
    cur=
  elif [ "$prev" = '=' ]; then
    prev=\${COMP_WORDS[COMP_CWORD-2]}
  fi
  for word in "\${COMP_WORDS[@]:1:COMP_CWORD-1}"; do
    case $word in
      ${names.replaceAll(' ', '|')}) command=$word; break ;;
    esac
  done
  case $command,$prev in
${commands.flatMap(valueCases).join('\n')}
  esac
  case $command,$cur in
    ,-*) ${fn}_words '${optionWords(options)}' ;;
    ,*) ${fn}_words '${names}' ;;
${commands.flatMap(wordCases).join('\n')}
  esac
}
${fn}_words() {
  mapfile -t COMPREPLY < <(compgen -W "$1" -- "$cur")
}
${fn}_paths() {
  compopt -o filenames
  mapfile -t COMPREPLY < <(compgen "$1" -- "$cur")
}
complete -F ${fn} ${name}
`;

  /** What follows an option that takes a value; those that are offered the same share a case. */
  function valueCases(command: OutlinedCommand): string[] {
    const patterns = new Map<string, string[]>();
    for (const { short, long, value } of command.options) {
      if (value !== undefined) {
        const flags = short === undefined ? [long] : [short, long];
        const action = offer(value.kind);
        patterns.set(action, [
          ...(patterns.get(action) ?? []),
          ...flags.map((flag) => `${command.name},${flag}`),
        ]);
      }
    }
    return [...patterns].map(([action, flags]) => `    ${flags.join('|')}) ${action}return ;;`);
  }

  function wordCases(command: OutlinedCommand): string[] {
    const kind = command.arguments[0]?.kind ?? 'text';
    return [
      `    ${command.name},-*) ${fn}_words '${optionWords(command.options)}' ;;`,
      `    ${command.name},*) ${offer(kind)};;`,
    ];
  }

  function offer(kind: ValueKind): string {
    switch (kind) {
      case 'path':
        return `${fn}_paths -f; `;
      case 'directory':
        return `${fn}_paths -d; `;
      case 'text':
        return '';
      default:
        return `${fn}_words '${kind.join(' ')}'; `;
    }
  }
}

function optionWords(options: readonly OutlinedOption[]): string {
  return options.map(({ long }) => long).join(' ');
}
