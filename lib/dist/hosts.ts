// How the launchers of several hosts agree on how an attempt ended, over the store that node 0's keeper serves: the first
// verdict of an attempt is everybody's. Not here: the ranks' own use of that store (create-group.ts).
//
// Keys, behind 'launch/':
//   plan         what all must have been started with alike; by whoever comes first
//   nodes        counts the launchers that have come
//   verdict/N    how attempt N ended with a failure; by whoever comes first
//   done/N       counts the launchers whose ranks of attempt N have all ended well
//   again/N      counts the launchers that are to start attempt N, a restart: it begins when all are there
//   heard        counts the launchers that know how the launch ended: node 0 serves the store until then
import { setTimeout as sleep } from 'node:timers/promises';
import { ShardloopError } from '../core/errors.js';
import { named, nameOf } from '../core/option-names.js';
import type { ToKeeper } from './keeper.js';
import type { Keeper } from './keeper-process.js';

/** How an attempt ended that did not end well. */
export interface Verdict {
  /** The host that says so. */
  readonly node: number;
  readonly exitCode: number;
  /** What happened there. */
  readonly text: string;
  /** Why there is no further attempt even if one is left; null when there is. */
  readonly final: string | null;
}

/** What the launchers must have been started with alike. */
export interface SharedPlan {
  readonly nnodes: number;
  readonly nprocPerNode: number;
  readonly maxRestarts: number;
}

/** How often the others are looked at, in milliseconds. */
const PERIOD = 250;
/** How long node 0 waits for the others to hear the end, in milliseconds. */
const HEARING = 5000;
/** How long node 0 waits for launchers that have not come yet, to tell them of a failure, in milliseconds. */
const LINGERING = 30_000;
/** When to say that node 0 is being waited for, in milliseconds. */
const SILENCE = 5000;

/** A {@link SharedPlan} in JSON as its reader would write it. */
const spelt = (plan: string) =>
  Object.entries(JSON.parse(plan) as SharedPlan)
    .map(([key, value]) => `${nameOf(key)} ${value}`)
    .join(', ');

/** The launchers of the other hosts, as this one sees them. */
export class Hosts {
  readonly #keeper: Keeper;
  readonly #node: number;
  readonly #plan: SharedPlan;
  readonly #where: string;
  #isLost = false;

  constructor(keeper: Keeper, node: number, plan: SharedPlan, host: string, port: number) {
    this.#keeper = keeper;
    this.#node = node;
    this.#plan = plan;
    this.#where = `${host}:${port}`;
  }

  /** Comes to the store, which node 0 serves. Throws BAD_LAUNCH when that is not to be had, or meant for another launch. */
  async join(host: string, port: number, seconds: number): Promise<void> {
    if (this.#node > 0) {
      const notice = setTimeout(() => {
        process.stderr.write(`[launch] waiting for the launcher of node 0 at ${this.#where}\n`);
      }, SILENCE);
      const answer = await this.#keeper.ask({ kind: 'join', host, port, seconds }, (seconds + 10) * 1000);
      clearTimeout(notice);
      if (answer.kind === 'failed') {
        throw new ShardloopError(
          'BAD_LAUNCH',
          `launch: node ${this.#node} did not reach the launcher of node 0 at ${this.#where} within ${seconds} s ` +
            `(${answer.text.split('\n', 1)[0]}); ` +
            named('start it there with --node-rank 0 and this --master-addr and --master-port'),
        );
      }
    }
    const own = JSON.stringify(this.#plan);
    const plan = String(await this.#ask({ kind: 'first', key: 'launch/plan', text: own }));
    if (plan !== own) {
      throw new ShardloopError(
        'BAD_LAUNCH',
        `launch: expected all hosts to be started alike, with ${spelt(plan)}, received ${spelt(own)} on node ${this.#node}; ` +
          named('give every host the same --nnodes, --nproc-per-node and --max-restarts'),
      );
    }
    await this.#ask({ kind: 'add', key: 'launch/nodes', n: 1 });
  }

  /** The verdict on an attempt as soon as there is one, or null once `signal` is aborted. */
  async verdict(attempt: number, signal: AbortSignal): Promise<Verdict | null> {
    const key = `launch/verdict/${attempt}`;
    const text = `the launcher of node ${this.#node} disappeared`;
    const will: Verdict = { node: this.#node, exitCode: 1, text, final: 'its host cannot start again' };
    this.#keeper.tell({ kind: 'will', key, text: JSON.stringify(will), counter: 'launch/heard' });
    try {
      while (!signal.aborted) {
        const text = await this.#ask({ kind: 'read', key });
        if (text !== '') return JSON.parse(String(text)) as Verdict;
        await sleep(PERIOD, undefined, { signal }).catch(() => {});
      }
      return null;
    } catch (error) {
      return this.#lost(error);
    }
  }

  /**
   * What all hosts make of an attempt that ended here with `own`: the first verdict of any host; null when all went well,
   * for which it waits for the others. `asked` tells of a signal meanwhile.
   */
  async settle(attempt: number, own: Verdict | null, asked: () => Verdict | null): Promise<Verdict | null> {
    const key = `launch/verdict/${attempt}`;
    try {
      if (own === null) await this.#ask({ kind: 'add', key: `launch/done/${attempt}`, n: 1 });
      while (true) {
        const mine = own ?? asked();
        const text = mine
          ? await this.#ask({ kind: 'first', key, text: JSON.stringify(mine) })
          : await this.#ask({ kind: 'read', key });
        if (text !== '') return JSON.parse(String(text)) as Verdict;
        if ((await this.#count(`launch/done/${attempt}`)) >= this.#plan.nnodes) return null;
        await sleep(PERIOD);
      }
    } catch (error) {
      const lost = this.#lost(error);
      return own ? { ...own, final: own.final ?? lost.text } : lost;
    }
  }

  /** Waits for all hosts before attempt N, a restart. The verdict, should one not come: its ranks would be missed for long. */
  async gather(attempt: number, seconds: number): Promise<Verdict | null> {
    const key = `launch/again/${attempt}`;
    const deadline = Date.now() + seconds * 1000;
    try {
      let there = Number(await this.#ask({ kind: 'add', key, n: 1 }));
      while (there < this.#plan.nnodes) {
        if (Date.now() > deadline) {
          const text = `only ${there} of ${this.#plan.nnodes} hosts came to the restart within ${seconds} s`;
          const verdict: Verdict = { node: this.#node, exitCode: 1, text, final: 'a host is missing' };
          const first = { kind: 'first', key: `launch/verdict/${attempt}`, text: JSON.stringify(verdict) } as const;
          return JSON.parse(String(await this.#ask(first))) as Verdict;
        }
        await sleep(PERIOD / 5);
        there = await this.#count(key);
      }
      return null;
    } catch (error) {
      return this.#lost(error);
    }
  }

  /**
   * The launch is over and this host knows it. Node 0 stays until the others do, but not for long: after a failure, also
   * for launchers that are yet to come (`joinSeconds` at most) unless `stopped` says that somebody wants it to end.
   */
  async leave(failed: boolean, joinSeconds: number, stopped: () => boolean): Promise<void> {
    if (this.#isLost) return;
    try {
      await this.#ask({ kind: 'add', key: 'launch/heard', n: 1 });
      if (this.#node > 0) return;
      const nodes = failed ? await this.#linger(Math.min(LINGERING, joinSeconds * 1000), stopped) : this.#plan.nnodes;
      const deadline = Date.now() + HEARING;
      while ((await this.#count('launch/heard')) < nodes && Date.now() < deadline) await sleep(PERIOD / 5);
    } catch {
      // Node 0 left first.
    }
  }

  /** Waits until the launchers of all hosts have come; resolves with how many have. */
  async #linger(ms: number, stopped: () => boolean): Promise<number> {
    const deadline = Date.now() + ms;
    let nodes = await this.#count('launch/nodes');
    if (nodes < this.#plan.nnodes && !stopped()) {
      const missing = this.#plan.nnodes - nodes;
      process.stderr.write(
        `[launch] waiting up to ${ms / 1000} s for the launchers of ${missing} more host${missing > 1 ? 's' : ''}, to tell them; Ctrl-C ends this\n`,
      );
    }
    while (nodes < this.#plan.nnodes && Date.now() < deadline && !stopped()) {
      await sleep(PERIOD / 5);
      nodes = await this.#count('launch/nodes');
    }
    return nodes;
  }

  async #count(key: string): Promise<number> {
    return Number(await this.#ask({ kind: 'add', key, n: 0 }));
  }

  #lost(error: unknown): Verdict {
    this.#isLost = true;
    const text = `the launcher of node 0 at ${this.#where} is gone (${(error as Error).message})`;
    return { node: 0, exitCode: 1, text, final: 'the launchers met there' };
  }

  async #ask(question: ToKeeper): Promise<string | number> {
    const answer = await this.#keeper.ask(question);
    if (answer.kind === 'done') return answer.value;
    throw new ShardloopError('BAD_LAUNCH', answer.text.split('\n', 1)[0]!);
  }
}
