// The launcher's companion process, started by launch.ts and by nothing else. It does two things that the launcher must
// not: it serves the rendezvous store (so that the launcher never loads libtorch, and the store outlives any rank), and
// it ends the ranks when the launcher disappears, be it by SIGKILL. It ends when told so, or after having ended them.
import { raw } from '../core/binding.js';

/** What the launcher says. */
export type ToKeeper =
  | { readonly kind: 'serve'; readonly host: string; readonly port: number }
  | { readonly kind: 'started'; readonly pid: number }
  | { readonly kind: 'ended'; readonly pid: number }
  | { readonly kind: 'close' };

/** What the keeper answers to 'serve'. */
export type FromKeeper =
  | { readonly kind: 'serving'; readonly port: number }
  | { readonly kind: 'failed'; readonly text: string };

/** How long ranks without a launcher have between SIGTERM and SIGKILL, in milliseconds. */
const GRACE = 3000;

const ranks = new Set<number>();

function serve(host: string, port: number): FromKeeper {
  try {
    const store = raw('shardloop::store_serve', host, port, 60) as number;
    return { kind: 'serving', port: raw('shardloop::store_port', store) as number };
  } catch (error) {
    return { kind: 'failed', text: error instanceof Error ? error.message : String(error) };
  }
}

/** Signals a rank's whole process group; false when nothing of it is left. */
function signalGroup(pid: number, signal: NodeJS.Signals): boolean {
  try {
    return process.kill(-pid, signal);
  } catch {
    return false;
  }
}

function endOrphans(): void {
  for (const pid of ranks) if (!signalGroup(pid, 'SIGTERM')) ranks.delete(pid);
  if (ranks.size === 0) process.exit(0);
  setTimeout(() => {
    for (const pid of ranks) signalGroup(pid, 'SIGKILL');
    process.exit(0);
  }, GRACE);
}

// The launcher decides about these; a terminal sends them to everyone.
for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP', 'SIGQUIT'] as const) process.on(signal, () => {});
process.once('disconnect', endOrphans);
process.on('message', (message: ToKeeper) => {
  if (message.kind === 'serve') process.send!(serve(message.host, message.port));
  else if (message.kind === 'started') ranks.add(message.pid);
  else if (message.kind === 'ended') ranks.delete(message.pid);
  else process.exit(0);
});
