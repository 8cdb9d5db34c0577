/** The few methods of a logger that the layers below the command line use; a pino logger is one. */

/** What a line is about, by name; `err` is an Error. */
export type LogFields = Readonly<Record<string, unknown>>;

/** Takes one line at a time, by level. */
export interface Logger {
  /** For those who look for a fault. */
  debug(fields: LogFields, message: string): void;
  /** What happens in ordinary times. */
  info(fields: LogFields, message: string): void;
  /** Something is odd, and nothing is lost. */
  warn(fields: LogFields, message: string): void;
  /** A request failed, or data may be lost. */
  error(fields: LogFields, message: string): void;
}

/** A logger that can name what its lines are about. */
export interface ServerLogger extends Logger {
  /** The same logger, with these fields in every line. */
  child(fields: LogFields): Logger;
}
