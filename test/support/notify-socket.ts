import { type ChildProcess, spawn } from 'node:child_process';
import { childEnvironment } from './command.ts';
import { eventually } from './polling.ts';
import { PYTHON } from './python.ts';

const RECEIVER = `
import json, socket, sys
address = sys.argv[1]
receiver = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
receiver.bind('\\0' + address[1:] if address[0] == '@' else address)
print(json.dumps('bound'), flush=True)
while True:
    print(json.dumps(receiver.recv(4096).decode()), flush=True)
`;

/** A service manager's end of $NOTIFY_SOCKET: a datagram socket, at a path or (with @) an abstract name. */
export class NotifySocket implements AsyncDisposable {
  readonly address: string;
  readonly #child: ChildProcess;
  #output = '';

  private constructor(address: string) {
    this.address = address;
    this.#child = spawn(PYTHON, ['-c', RECEIVER, address], {
      env: childEnvironment(),
      stdio: ['ignore', 'pipe', 'inherit'],
    });
    this.#child.stdout?.setEncoding('utf8').on('data', (text: string) => {
      this.#output += text;
    });
  }

  static async bind(address: string): Promise<NotifySocket> {
    const socket = new NotifySocket(address);
    await eventually('the notify socket is bound', () => (socket.#output === '' ? undefined : true));
    return socket;
  }

  /** Everything that was said, in order. */
  get messages(): string[] {
    return this.#output
      .split('\n')
      .slice(1, -1)
      .map((line) => JSON.parse(line) as string);
  }

  /** Waits for a message that matches. */
  heard(pattern: RegExp): Promise<string> {
    return eventually(`a message like ${pattern}`, () =>
      this.messages.find((message) => pattern.test(message)),
    );
  }

  async [Symbol.asyncDispose](): Promise<void> {
    const ended = new Promise((resolve) => this.#child.once('close', resolve));
    this.#child.kill();
    await ended;
  }
}
