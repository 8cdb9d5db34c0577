// Listeners in a process of their own. The first argument says what to do, the second is a socket path.
import { closeSync, openSync } from 'node:fs';
import { createRequire } from 'node:module';
import net from 'node:net';

const native = createRequire(import.meta.url)('../../build/Release/nbd_serve.node');
const [scenario, path] = process.argv.slice(2);

function say(text) {
  process.stdout.write(`${text}\n`);
}

function open(accepted) {
  return new native.Listener(native.listen_unix(path, 0o600, 16), accepted);
}

const scenarios = {
  // The connection is made while there is room, accepted when there is none.
  emfile() {
    const held = [];
    let errors = 0;
    const listener = open((descriptor) => {
      say(`accepted ${descriptor >= 0 ? 'descriptor' : descriptor}`);
      if (descriptor >= 0) {
        listener.close();
        closeSync(descriptor);
        client.destroy();
        return;
      }
      errors += 1;
      if (errors > 1) return;
      // Several turns of the loop: a listener that went on polling would report again in each.
      let turns = 20;
      const turn = () => {
        turns -= 1;
        if (turns > 0) {
          setImmediate(turn);
          return;
        }
        say('paused');
        for (const fd of held) closeSync(fd);
        listener.resume();
      };
      setImmediate(turn);
    });
    listener.pause();
    const client = net.connect(path, () => {
      try {
        for (;;) held.push(openSync('/dev/null', 'r'));
      } catch (error) {
        if (error.code !== 'EMFILE') throw error;
      }
      listener.resume();
    });
  },

  // Nothing but the listener keeps this process; the client is unreferenced.
  lifetime() {
    const listener = open((descriptor) => {
      say('accepted descriptor');
      closeSync(descriptor);
      listener.close();
    });
    setImmediate(() =>
      net
        .connect(path)
        .on('error', () => {})
        .unref(),
    );
  },

  paused() {
    open(() => say('accepted')).pause();
  },

  throw() {
    let uncaught = 0;
    process.on('uncaughtException', () => {
      uncaught += 1;
      say(`uncaught ${uncaught}`);
      if (uncaught < 3) return;
      listener.close();
      for (const client of clients) client.destroy();
    });
    const listener = open((descriptor) => {
      closeSync(descriptor);
      throw new Error('Thrown by accepted');
    });
    listener.pause();
    const clients = [1, 2, 3].map(() => net.connect(path).on('error', () => {}));
    setImmediate(() => listener.resume());
  },
};

scenarios[scenario]();
