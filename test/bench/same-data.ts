/** A server that answers fast because it answers something else must not count. */
import { run } from '../support/command.ts';
import { python } from '../support/python.ts';
import { uriWithCertificates } from './clients.ts';
import type { Peer, Setup } from './peers.ts';

const SCRIPT = `
h = connect()
path, count = arguments[0], 64
size = os.stat(path).st_size
assert h.get_size() == size, f'the export has {h.get_size()} bytes, not {size}'
with open(path, 'rb') as image:
    for index in range(count):
        offset = index * (size - 65536) // (count - 1) // 4096 * 4096
        image.seek(offset)
        assert h.pread(65536, offset) == image.read(65536), f'other data at {offset}'
h.shutdown()
`;

/** Checks that the server gives out the contents of the image; an export in memory is filled with them first. */
export async function assertServes(peer: Peer, uri: string, setup: Setup): Promise<void> {
  if (peer.keepsNothing === true) {
    return;
  }
  const whole = uriWithCertificates(uri, setup);
  if (setup.target === 'memory') {
    await run(['nbdcopy', setup.image, whole]);
  }
  try {
    await python(whole, SCRIPT, [setup.image]);
  } catch (error) {
    throw new Error(`${peer.name} does not serve the image: ${String(error)}`, { cause: error });
  }
}
