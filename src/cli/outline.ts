/** The command line as data, for what is generated from it: the manual page and the shells' completions. */
import type { Argument, CommandUnknownOpts, Help, Option } from '@commander-js/extra-typings';

/** What a shell can offer for a value. */
export type ValueKind = 'path' | 'directory' | 'text' | readonly string[];

export interface OutlinedOption {
  readonly short: string | undefined;
  readonly long: string;
  readonly description: string;
  /** With choices and a default that says something. */
  readonly fullDescription: string;
  /** Undefined: a flag. */
  readonly value: OutlinedValue | undefined;
}

export interface OutlinedValue {
  readonly name: string;
  readonly kind: ValueKind;
}

export interface OutlinedArgument extends OutlinedValue {
  readonly description: string;
  readonly isRepeated: boolean;
}

export interface OutlinedCommand {
  readonly name: string;
  readonly description: string;
  readonly options: readonly OutlinedOption[];
  readonly arguments: readonly OutlinedArgument[];
}

export interface Outline extends OutlinedCommand {
  readonly version: string;
  readonly commands: readonly OutlinedCommand[];
}

/** Of a program and its subcommands, hidden ones left out. */
export function outline(program: CommandUnknownOpts): Outline {
  const help = program.createHelp();
  return {
    ...outlineCommand(program, help),
    version: program.version() ?? '',
    commands: help.visibleCommands(program).map((command) => outlineCommand(command, help)),
  };
}

function outlineCommand(command: CommandUnknownOpts, help: Help): OutlinedCommand {
  return {
    name: command.name(),
    description: command.description(),
    options: help.visibleOptions(command).map((option) => outlineOption(option, help)),
    arguments: command.registeredArguments.map(outlineArgument),
  };
}

function outlineOption(option: Option, help: Help): OutlinedOption {
  const placeholder = /<(.+)>/.exec(option.flags)?.[1];
  return {
    short: option.short,
    long: option.long ?? option.flags,
    description: option.description,
    fullDescription: isNothing(option.defaultValue) ? option.description : help.optionDescription(option),
    value:
      placeholder === undefined
        ? undefined
        : { name: placeholder, kind: option.argChoices ?? kindOf(placeholder) },
  };
}

function outlineArgument(argument: Argument): OutlinedArgument {
  const name = argument.name();
  return {
    name,
    kind: argument.argChoices ?? kindOf(name),
    description: argument.description,
    isRepeated: argument.variadic,
  };
}

/** A default that needs no words: off, empty, none. */
function isNothing(value: unknown): boolean {
  return value === false || value === '' || (Array.isArray(value) && value.length === 0);
}

/** By the placeholders that the commands use. */
function kindOf(placeholder: string): ValueKind {
  if (/^(path|file|out\.svg)$/.test(placeholder)) {
    return 'path';
  }
  return /^(dir|directory)$/.test(placeholder) ? 'directory' : 'text';
}
