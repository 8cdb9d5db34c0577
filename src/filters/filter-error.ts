/** A filter that does not exist, is told nonsense, or cannot be put on its plugin: in one line for people. */
export class FilterError extends Error {
  override readonly name = 'FilterError';
}
