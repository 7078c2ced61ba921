// The launcher's end of its companion process (keeper.ts): starting it, asking it, closing it.
import { type ChildProcess, fork } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { ShardloopError } from '../core/errors.js';
import { named } from '../core/option-names.js';
import type { FromKeeper, ToKeeper } from './keeper.js';

/** A store that does not answer for so long, in milliseconds, is lost, and so is a keeper. */
const PATIENCE = 30_000;
const CLOSING = 2000;

/** The companion process, and the channel to it. */
export class Keeper {
  readonly #child: ChildProcess;
  /** Questions without an answer yet; the keeper answers in order. */
  readonly #waiting: ((answer: FromKeeper) => void)[] = [];
  #ended: string | null = null;

  /** `folder` is removed should this process disappear. */
  constructor(folder: string) {
    // From the sources (tests) the built keeper is taken: plain Node must be able to run it.
    const built = import.meta.url.endsWith('.ts') ? '../../dist/dist/keeper.js' : './keeper.js';
    this.#child = fork(fileURLToPath(new URL(built, import.meta.url)), [folder], {
      detached: true,
      execArgv: [],
      stdio: ['ignore', 'ignore', 'inherit', 'ipc'],
    });
    this.#child.on('error', () => {});
    this.#child.on('message', (message) => this.#waiting.shift()?.(message as FromKeeper));
    this.#child.once('exit', (code, signal) => {
      this.#ended = `its process ended (${signal ?? code})`;
      for (const answer of this.#waiting.splice(0)) answer({ kind: 'failed', text: this.#ended });
    });
    this.#child.unref();
    this.#child.channel?.unref();
  }

  /** Serves the store; resolves with its port. */
  async serve(host: string, port: number): Promise<number> {
    const answer = await this.ask({ kind: 'serve', host, port }, PATIENCE);
    if (answer.kind === 'done') return Number(answer.value);
    const where = port === 0 ? `a free port of ${host}` : `${host}:${port}`;
    throw new ShardloopError(
      'BAD_LAUNCH',
      `launch: could not serve the rendezvous store on ${where}: ${answer.text.split('\n', 1)[0]}; ` +
        named('choose another --master-port, or leave it out to get a free one'),
    );
  }

  /** Its answer to a question; never rejects. */
  async ask(question: ToKeeper, patience = PATIENCE): Promise<FromKeeper> {
    if (this.#ended !== null) return { kind: 'failed', text: this.#ended };
    let timer: NodeJS.Timeout | undefined;
    this.#child.channel?.ref();
    const answer = await new Promise<FromKeeper>((resolve) => {
      this.#waiting.push(resolve);
      timer = setTimeout(() => resolve({ kind: 'failed', text: `no answer in ${patience / 1000} s` }), patience);
      this.tell(question);
    });
    clearTimeout(timer);
    if (this.#waiting.length === 0) this.#child.channel?.unref();
    return answer;
  }

  /** Says something that has no answer. */
  tell(message: ToKeeper): void {
    if (this.#child.connected) this.#child.send(message, () => {});
  }

  /** Puts a rank under its care. */
  watch(rank: ChildProcess): void {
    if (rank.pid === undefined) return;
    const pid = rank.pid;
    this.tell({ kind: 'started', pid });
    rank.once('exit', () => this.tell({ kind: 'ended', pid }));
  }

  /** Ends it, and the store with it. */
  async close(): Promise<void> {
    if (!this.#child.connected) return;
    this.#child.ref();
    const ended = new Promise<void>((resolve) => this.#child.once('exit', () => resolve()));
    this.tell({ kind: 'close' });
    // It may hang on a store that is lost.
    const timer = setTimeout(() => this.#child.kill('SIGKILL'), CLOSING);
    await ended;
    clearTimeout(timer);
  }
}
