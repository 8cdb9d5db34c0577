/** Standard output for the commands that report something and end. */

let isWatched = false;

/** Prints; a reader that has gone (`| head`) is no failure of the command. */
export function print(text: string): void {
  if (!isWatched) {
    isWatched = true;
    process.stdout.on('error', () => {});
  }
  process.stdout.write(text);
}

/** A file name in one line, whatever is in it. */
export function printable(name: string): string {
  return name.replaceAll(/\p{Cc}/gu, (control) => JSON.stringify(control).slice(1, -1));
}
