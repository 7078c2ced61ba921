// Work: one collective on its way. It can be waited for here (wait), or as a promise that holds neither the event loop
// nor a thread of libuv's pool (done). A work that nobody waits for is let go by the finalization registry.
import { native, raw } from '../core/binding.js';
import { ShardloopError } from '../core/errors.js';
import { addSpan, isRecordingSpans, now, span } from '../core/spans.js';

/** Turns the native error text into the error that a user sees. */
export type Explain = (text: string) => ShardloopError;

const forgotten = new FinalizationRegistry<number>((id) => {
  raw('shardloop::work_release', id);
});

/** A collective operation that was launched and may still run. Its tensors must not be read or written until it is done. */
export class Work {
  readonly #id: number | null;
  readonly #explain: Explain;
  readonly #name: string;
  #outcome: ShardloopError | 'ok' | null = null;
  #promise: Promise<void> | null = null;

  /** Internal: works come from the methods of a Group. A null id is a work that was complete from the start. */
  constructor(id: number | null, explain: Explain, name = 'a collective') {
    this.#id = id;
    this.#explain = explain;
    this.#name = name;
    if (id === null) this.#outcome = 'ok';
    else forgotten.register(this, id, this);
  }

  /** Whether it has finished, well or not. Never throws. */
  get isCompleted(): boolean {
    return this.#outcome !== null || raw('shardloop::work_is_completed', this.#id) === true;
  }

  /**
   * Waits on this thread until the operation is complete; with NCCL, makes the current stream wait and returns at once.
   * Throws COLLECTIVE_FAILED, naming rank, operation, shapes and group.
   */
  wait(): void {
    if (this.#outcome === null) {
      if (this.#promise !== null) {
        throw new ShardloopError(
          'BAD_ARGUMENT',
          'wait: done() was called on this work before; await its promise instead',
        );
      }
      this.#settle(span('wait', this.#name, undefined, () => raw('shardloop::work_wait', this.#id) as string));
    }
    if (this.#outcome instanceof ShardloopError) throw this.#outcome;
  }

  /** Resolves when the operation is complete, data included. Rejects with COLLECTIVE_FAILED as {@link wait} throws. */
  done(): Promise<void> {
    this.#promise ??= this.#await();
    return this.#promise;
  }

  async #await(): Promise<void> {
    if (this.#outcome === null) {
      const start = isRecordingSpans() ? now() : 0;
      this.#settle(await native().workPromise(this.#id!));
      if (start > 0) addSpan('wait', this.#name, start);
    }
    if (this.#outcome instanceof ShardloopError) throw this.#outcome;
  }

  #settle(text: string): void {
    forgotten.unregister(this);
    this.#outcome = text === '' ? 'ok' : this.#explain(text);
  }
}
