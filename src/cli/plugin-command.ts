/** `nbd-serve plugin <module> [args...]`. */
import { Console } from 'node:console';
import { CustomPlugin } from '../plugins/custom/custom-plugin.ts';
import { toError } from '../plugins/custom/export-error.ts';
import { CommandError, describeError } from './command-error.ts';
import { loadDefinition } from './plugin/module.ts';
import { type PluginContext, serve } from './serve.ts';
import { servingCommand } from './serving-options.ts';

/** `finish` gets the exit code. */
export function pluginCommand(finish: (code: number) => void) {
  return servingCommand('plugin')
    .description('serve a block device that a module of yours defines')
    .argument('<module>', 'JavaScript or TypeScript; its default export is a device, or makes one')
    .argument('[args...]', 'what the module is told; after "--" also what looks like an option')
    .action(async (path, args, options) => {
      // Standard output has one line, the URI, and the author of a device may print what he likes.
      const { console } = globalThis;
      globalThis.console = new Console(process.stderr, process.stderr);
      const strays = new AbortController();
      try {
        finish(
          await serve(
            options,
            async (context) => {
              const { log, isReadOnly } = context;
              const definition = await loadDefinition(path, args, { log, isReadOnly });
              const plugin = createPlugin(definition, path, isReadOnly);
              watchStrays(plugin, context, strays.signal);
              return plugin.guarded();
            },
            { module: path },
          ),
        );
      } finally {
        strays.abort();
        globalThis.console = console;
      }
    });
}

function createPlugin(definition: unknown, path: string, isReadOnly: boolean): CustomPlugin {
  try {
    return CustomPlugin.create(definition, { isReadOnly });
  } catch (error) {
    throw new CommandError(`Cannot serve "${path}": ${describeError(error)}`);
  }
}

/**
 * What is thrown where no request can fail for it: in a timer, or in a promise that nobody awaits. Node would end
 * the process; here it is logged, and no flush succeeds any more, for what failed may have been a write.
 */
function watchStrays(plugin: CustomPlugin, { log, onLoss }: PluginContext, end: AbortSignal): void {
  const take = (thrown: unknown): void => {
    const error = toError(thrown, 'The plugin');
    if (plugin.info.isReadOnly) {
      return log.error({ err: error }, 'The plugin failed outside of a request');
    }
    log.error({ err: error }, 'The plugin failed outside of a request; acknowledged data may be lost');
    plugin.suspect(error);
    onLoss();
  };
  process.on('uncaughtException', take).on('unhandledRejection', take);
  end.addEventListener('abort', () => {
    process.off('uncaughtException', take).off('unhandledRejection', take);
  });
}
