/** A command that cannot be carried out, for a reason that the user can mend. */
export class CommandError extends Error {
  override readonly name = 'CommandError';
}

/** One line for people, whatever was thrown. */
export function describeError(error: unknown): string {
  const text = error instanceof Error ? error.message : String(error);
  return text.replaceAll('\n', ' ');
}
