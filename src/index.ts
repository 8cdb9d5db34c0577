/**
 * Block devices in TypeScript or JavaScript, served over NBD: `defineExport` for those that write one, `serve` for
 * those that want to use it from a program or a test. `nbd-serve plugin ./my-device.ts` does the same from the
 * command line.
 *
 * @module
 */
export {
  type RunningServer,
  type ServeOptions,
  type ServerAddress,
  serve,
  type TcpAddress,
  type UnixAddress,
} from './api/serve.ts';
export type { PluginModuleContext, PluginModuleDefault } from './cli/plugin/module.ts';
export type { LogFields, Logger, ServerLogger } from './log.ts';
export {
  defineExport,
  type ExportBlockSize,
  type ExportDefinition,
  type ExportExtent,
  type ZeroRequest,
} from './plugins/custom/definition.ts';
export { ExportError, type ExportErrorCode } from './plugins/custom/export-error.ts';
