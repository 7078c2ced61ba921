// The store where the ranks of a group meet: inside this process, served by it, or over TCP at another's. What goes wrong
// here is mostly a name or a port, so each is a sentence of its own.
import { lookup } from 'node:dns/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import { native, raw } from '../core/binding.js';
import type { ShardloopError } from '../core/index.js';

/** Where the ranks of a new group find each other. */
export type StoreAddress =
  /** A store over TCP; `serve` on the one process that holds it. */
  | { readonly host: string; readonly port: number; readonly serve?: boolean }
  /** A store inside this process, for ranks that are worker threads of it. */
  | { readonly inProcess: string };

/** The native store. Rejects with what `fail` makes of a sentence and the engine's own text, soon after the timeout. */
export async function openStore(
  address: StoreAddress,
  timeoutSeconds: number,
  fail: (what: string, text: string) => ShardloopError,
): Promise<number> {
  if ('inProcess' in address) return raw('shardloop::store_in_process', address.inProcess) as number;
  const { host, port, serve } = address;
  const where = `${host}:${port}`;
  if (serve) {
    try {
      return raw('shardloop::store_serve', host, port, timeoutSeconds) as number;
    } catch (error) {
      throw fail(
        `could not serve the store on ${where}; is the port taken, or MASTER_ADDR another host?`,
        (error as Error).message,
      );
    }
  }
  const reach = `could not reach the store on ${where} within ${timeoutSeconds} s`;
  const end = performance.now() + timeoutSeconds * 1000;
  const unknown = await resolve(host, end);
  if (unknown !== '') throw fail(`${reach}; is MASTER_ADDR the name of the host of rank 0?`, unknown);
  const left = Math.max(0.1, (end - performance.now()) / 1000);
  const [store, work] = raw('shardloop::store_connect', host, port, left) as [number, number];
  const late = new AbortController();
  const error = await Promise.race([
    native().workPromise(work),
    // The engine goes on trying for a second or two beyond its timeout.
    sleep(left * 1000 + 200, 'no answer', { signal: late.signal }),
  ]);
  late.abort();
  if (error !== '') throw fail(`${reach}; did rank 0 start there?`, error);
  return store;
}

/** Waits until the name of `host` is known, as a new pod's is after a while; '' or why it is not. */
async function resolve(host: string, end: number): Promise<string> {
  for (;;) {
    try {
      await lookup(host);
      return '';
    } catch (error) {
      if (performance.now() + 500 > end) return (error as Error).message;
      await sleep(500);
    }
  }
}
