// What this rank's memory for tensors is used for, from what the allocator holds at known moments of a run.
import { isCudaAvailable, memory } from '../core/index.js';

/** Bytes of this rank by kind. */
export interface MemoryUse {
  /** At rest between steps: whole, or under ZeRO-3 this rank's shard. */
  parameters: number;
  /** Moments and float32 masters. */
  optimizer: number;
  /** Behind the backward: what the optimizer reads, and the buckets that carried it. */
  gradients: number;
  /** The rest at the fullest moment so far: activations, gathered parameters, gradients on their way, temporaries. */
  activations: number;
  /** All of it at the fullest moment so far. */
  peak: number;
}

/** Books the memory of one device by kind. */
export class MemoryLedger {
  readonly #device: string;
  readonly #before: number;
  readonly #booked = new Map<keyof MemoryUse, number>();

  /** `device`: 'cpu', 'cuda:0', or for a plan 'meta', 'meta:host' or 'meta:files'. What is held at this moment counts under no kind. */
  constructor(device: string) {
    this.#device = device;
    this.#before = this.#allocated();
    if (!this.#isCuda) memory.resetPeak(this.#plain);
  }

  /** What is held now and not booked under another kind belongs to `kind`, unless more was booked there before. */
  book(kind: 'parameters' | 'optimizer' | 'gradients'): void {
    const others = [...this.#booked].reduce(
      (sum, [other, bytes]) => (other === kind ? sum : sum + bytes),
      this.#before,
    );
    const own = Math.max(0, this.#allocated() - others);
    this.#booked.set(kind, Math.max(own, this.#booked.get(kind) ?? 0));
  }

  /** The numbers so far. */
  use(): MemoryUse {
    const [parameters, optimizer, gradients] = (['parameters', 'optimizer', 'gradients'] as const).map(
      (kind) => this.#booked.get(kind) ?? 0,
    ) as [number, number, number];
    const peak = this.#peak() - this.#before;
    return {
      parameters,
      optimizer,
      gradients,
      activations: Math.max(0, peak - parameters - optimizer - gradients),
      peak,
    };
  }

  #allocated(): number {
    return this.#isCuda ? memory.cudaStats(this.#device).allocated : memory.allocatorStats(this.#plain).allocated;
  }

  #peak(): number {
    return this.#isCuda ? memory.cudaStats(this.#device).peak : memory.allocatorStats(this.#plain).peak;
  }

  get #isCuda(): boolean {
    return this.#device.startsWith('cuda') && isCudaAvailable();
  }

  get #plain(): 'cpu' | memory.MetaMemory {
    return this.#device.startsWith('meta') ? (this.#device as memory.MetaMemory) : 'cpu';
  }
}
