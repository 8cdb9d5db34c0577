/** Completion for zsh: sourced, or as a file `_nbd-serve` in $fpath. */
import type { Outline, OutlinedArgument, OutlinedOption, ValueKind } from '../outline.ts';

export function zshCompletion({ name, commands, options }: Outline): string {
  const fn = `_${name.replaceAll('-', '_')}`;
  const cases = commands.map(
    (command) => `        ${command.name})
          _arguments -s ${[...command.options.map(optionSpec), ...command.arguments.map(argumentSpec)].join(' \\\n            ')} ;;`,
  );
  return `#compdef ${name}
# zsh completion for ${name}
${fn}() {
  local curcontext="$curcontext" state line
  local -a commands
  commands=(
${commands.map((command) => `    ${quoted(`${command.name}:${command.description}`)}`).join('\n')}
  )
  _arguments -C ${options.map(optionSpec).join(' ')} '1:command:->command' '*::argument:->argument'
  case $state in
    command) _describe command commands ;;
    argument)
      case $line[1] in
${cases.join('\n')}
      esac ;;
  esac
}
if [ "$funcstack[1]" = "_${name}" ]; then
  ${fn} "$@"
else
  compdef ${fn} ${name}
fi
`;
}

function optionSpec({ short, long, description, value }: OutlinedOption): string {
  const text = escaped(description);
  const action = value === undefined ? '' : `:${escaped(value.name)}:${actionOf(value.kind)}`;
  // "--long=" takes its value after = or in the next word, "-s+" in the same or the next word.
  const [longForm, shortForm] = value === undefined ? [long, short] : [`${long}=`, short && `${short}+`];
  return shortForm === undefined
    ? quoted(`${longForm}[${text}]${action}`)
    : `${quoted(`(${short} ${long})`)}{${shortForm},${longForm}}${quoted(`[${text}]${action}`)}`;
}

function argumentSpec({ name, kind, isRepeated }: OutlinedArgument): string {
  return quoted(`${isRepeated ? '*' : ''}:${escaped(name)}:${actionOf(kind)}`);
}

function actionOf(kind: ValueKind): string {
  switch (kind) {
    case 'path':
      return '_files';
    case 'directory':
      return '_files -/';
    case 'text':
      return ' ';
    default:
      return `(${kind.join(' ')})`;
  }
}

/** Brackets and colons have a meaning inside a specification. */
function escaped(text: string): string {
  return text.replaceAll(/[[\]:\\]/g, '\\$&');
}

function quoted(text: string): string {
  return `'${text.replaceAll("'", "'\\''")}'`;
}
