// The launcher's companion process, started by keeper-process.ts and by nothing else. It does two things that the
// launcher must not: it serves the rendezvous store or asks that of another host (so that the launcher never loads
// libtorch, and the store outlives any rank), and when the launcher disappears, be it by SIGKILL, it ends the ranks and
// removes the launch's folder (its argument). It ends when told so, or after that.
import { rmSync } from 'node:fs';
import { native, raw } from '../core/binding.js';

/** What the launcher says. */
export type ToKeeper =
  /** Serve a store; answered with its port. */
  | { readonly kind: 'serve'; readonly host: string; readonly port: number }
  /** Connect to a store; answered when that is done. */
  | { readonly kind: 'join'; readonly host: string; readonly port: number; readonly seconds: number }
  /** Set a key unless it is set; answered with what stands there. */
  | { readonly kind: 'first'; readonly key: string; readonly text: string }
  /** Answered with the text of a key, or ''. */
  | { readonly kind: 'read'; readonly key: string }
  /** Answered with the counter after the addition. */
  | { readonly kind: 'add'; readonly key: string; readonly n: number }
  /** What to set first, and the counter to raise, should the launcher disappear. */
  | { readonly kind: 'will'; readonly key: string; readonly text: string; readonly counter: string }
  | { readonly kind: 'started'; readonly pid: number }
  | { readonly kind: 'ended'; readonly pid: number }
  | { readonly kind: 'close' };

/** What the keeper answers. */
export type FromKeeper =
  | { readonly kind: 'done'; readonly value: string | number }
  | { readonly kind: 'failed'; readonly text: string };

/** How long ranks without a launcher have between SIGTERM and SIGKILL, in milliseconds. */
const GRACE = 3000;

const ranks = new Set<number>();
let store: number | undefined;
let will: Extract<ToKeeper, { kind: 'will' }> | undefined;

async function join(host: string, port: number, seconds: number): Promise<string> {
  const [id, work] = raw('shardloop::store_connect', host, port, seconds) as [number, number];
  const error = await native().workPromise(work);
  if (error !== '') throw new Error(error);
  store = id;
  return '';
}

/** The answer to a question; undefined for what is none. */
async function answer(message: ToKeeper): Promise<string | number | undefined> {
  switch (message.kind) {
    case 'serve':
      store = raw('shardloop::store_serve', message.host, message.port, 60) as number;
      return raw('shardloop::store_port', store) as number;
    case 'join':
      return join(message.host, message.port, message.seconds);
    case 'first':
      return raw('shardloop::store_first', store!, message.key, message.text) as string;
    case 'read':
      return raw('shardloop::store_read', store!, message.key) as string;
    case 'add':
      return raw('shardloop::store_add', store!, message.key, message.n) as number;
    case 'will':
      will = message;
      return undefined;
    case 'started':
      ranks.add(message.pid);
      return undefined;
    case 'ended':
      ranks.delete(message.pid);
      return undefined;
    case 'close':
      process.exit(0);
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

/** After the last rank: nobody else knows the folder any more. */
function leave(): never {
  const folder = process.argv[2];
  try {
    if (folder) rmSync(folder, { recursive: true, force: true });
  } catch {
    // It is somebody else's now.
  }
  process.exit(0);
}

function endOrphans(): void {
  for (const pid of ranks) if (!signalGroup(pid, 'SIGTERM')) ranks.delete(pid);
  try {
    if (will && store !== undefined) {
      raw('shardloop::store_first', store, will.key, will.text);
      raw('shardloop::store_add', store, will.counter, 1);
    }
  } catch {
    // The store is gone too; the others see that.
  }
  if (ranks.size === 0 && !will) leave();
  // With a will the store stays for as long: others are to read it.
  setTimeout(() => {
    for (const pid of ranks) signalGroup(pid, 'SIGKILL');
    leave();
  }, GRACE);
}

// The launcher decides about these; a terminal sends them to everyone.
for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP', 'SIGQUIT'] as const) process.on(signal, () => {});
process.once('disconnect', endOrphans);
process.on('message', async (message: ToKeeper) => {
  let reply: FromKeeper;
  try {
    const value = await answer(message);
    if (value === undefined) return;
    reply = { kind: 'done', value };
  } catch (error) {
    reply = { kind: 'failed', text: error instanceof Error ? error.message : String(error) };
  }
  if (process.connected) process.send!(reply);
});
