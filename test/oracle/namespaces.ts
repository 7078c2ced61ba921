// Two hosts in one machine: network namespaces with an address each and a cable between them. Needs root and iproute2;
// nothing of it is seen outside of the namespaces.
import { execFileSync } from 'node:child_process';

/** A pair of hosts. */
export interface HostPair {
  readonly addresses: readonly [string, string];
  /** The command that runs a command on a host. */
  on(host: number, ...command: string[]): readonly [string, string[]];
  /** Pulls the cable. */
  cut(): void;
  remove(): void;
}

const ip = (...args: string[]) => execFileSync('ip', args, { stdio: ['ignore', 'pipe', 'pipe'] });

/** Makes the pair. Throws what `ip` says where that is not permitted. */
export function hostPair(): HostPair {
  const names = [0, 1].map((host) => `shardloop-${process.pid}-${host}`) as [string, string];
  const addresses = ['10.77.0.1', '10.77.0.2'] as const;
  const remove = () => {
    for (const name of names) {
      try {
        ip('netns', 'del', name);
      } catch {
        // it was not made
      }
    }
  };
  try {
    for (const name of names) ip('netns', 'add', name);
    ip('link', 'add', 'cable', 'netns', names[0], 'type', 'veth', 'peer', 'name', 'cable', 'netns', names[1]);
    for (const [host, name] of names.entries()) {
      ip('-n', name, 'address', 'add', `${addresses[host]}/24`, 'dev', 'cable');
      ip('-n', name, 'link', 'set', 'lo', 'up');
      ip('-n', name, 'link', 'set', 'cable', 'up');
    }
  } catch (error) {
    remove();
    throw error;
  }
  return {
    addresses,
    on: (host, ...command) => ['ip', ['netns', 'exec', names[host]!, ...command]],
    cut: () => void ip('-n', names[0], 'link', 'set', 'cable', 'down'),
    remove,
  };
}
