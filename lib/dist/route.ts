// Which address of this host leads to another one: what the operating system would send from. Nothing is sent.
import { createSocket } from 'node:dgram';
import { lookup } from 'node:dns/promises';

/** This host's address on the way to `host`; null when there is no way, or it is the loopback. */
export async function addressTowards(host: string): Promise<string | null> {
  try {
    const { address, family } = await lookup(host);
    const socket = createSocket(family === 6 ? 'udp6' : 'udp4');
    try {
      await new Promise<void>((resolve, reject) => {
        socket.once('error', reject);
        socket.connect(1, address, () => resolve());
      });
      const own = socket.address().address;
      return own.startsWith('127.') || own === '::1' ? null : own;
    } finally {
      socket.close();
    }
  } catch {
    return null;
  }
}
