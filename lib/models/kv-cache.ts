// The keys and values of past positions, so that generation computes each position once. Memory is taken whole at the
// start and written in place; nothing grows. Not here: which position a token has (the model), when to stop (generate).
import { type DType, keep, ShardloopError, type Tensor, zeros } from '../core/index.js';
import { appended, type CachedAttentionOptions, cachedAttention } from '../nn/cached-attention.js';

/** What a {@link KVCache} is made for. */
export interface KVCacheOptions {
  readonly layers: number;
  readonly batch: number;
  readonly heads: number;
  /** Width of one head. */
  readonly headSize: number;
  /** Positions that can be held. */
  readonly length: number;
  readonly dtype?: DType;
  readonly device?: string;
}

/** Keys and values of every block: two tensors (B, H, length, D) a block. Free it with `dispose()` or `using`. */
export class KVCache {
  /** Positions that can be held. */
  readonly capacity: number;
  /** Positions that are held. */
  length = 0;
  readonly #layers: readonly { readonly keys: Tensor; readonly values: Tensor }[];

  constructor(options: KVCacheOptions) {
    const { layers, batch, heads, headSize, length, dtype, device } = options;
    const make = () => keep(zeros([batch, heads, length, headSize], { dtype, device }));
    this.capacity = length;
    this.#layers = Array.from({ length: layers }, () => ({ keys: make(), values: make() }));
  }

  /**
   * Writes the keys and values (B, H, T, D) of T new positions of one block behind those that are held, and returns
   * views (B, H, length + T, D) of all. The positions count as held after {@link advance}.
   */
  update(layer: number, keys: Tensor, values: Tensor): [Tensor, Tensor] {
    this.#check(this.length + keys.shape[2]!);
    const own = this.#layers[layer]!;
    return [appended(own.keys, keys, this.length), appended(own.values, values, this.length)];
  }

  /**
   * {@link update} and the attention of the new positions to all that are then held, where q, k and v lie together:
   * (B, T, 3, H, D) -> (B, T, H D).
   */
  attend(layer: number, qkv: Tensor, options: CachedAttentionOptions = {}): Tensor {
    this.#check(this.length + qkv.shape[1]!);
    const { keys, values } = this.#layers[layer]!;
    return cachedAttention(qkv, keys, values, this.length, options);
  }

  /** Counts `positions` more as held, once every block has written them. */
  advance(positions: number): void {
    this.#check(this.length + positions);
    this.length += positions;
  }

  #check(end: number): void {
    if (end <= this.capacity) return;
    throw new ShardloopError(
      'BAD_ARGUMENT',
      `KVCache: expected at most ${this.capacity} positions, received ${end}; make the cache longer`,
    );
  }

  /** Frees the keys and values of every block. */
  dispose(): void {
    for (const { keys, values } of this.#layers) {
      keys.dispose();
      values.dispose();
    }
  }

  /** {@link dispose}, for `using`. */
  [Symbol.dispose](): void {
    this.dispose();
  }
}
