// The table lookup.
import { call, describe, empty, isFloatingDType, ops, ShardloopError, Tensor } from '../core/index.js';
import { isOnKernelDevice } from './fused.js';
import * as init from './init.js';
import { Module } from './module.js';
import { size, type TensorOptions } from './options.js';
import { type Parameter, parameter } from './parameter.js';

/** Options of {@link Embedding}. */
export interface EmbeddingOptions extends TensorOptions {
  /** Rows of the table: how many different ids there are. */
  count: number;
  /** Width of a row. */
  size: number;
}

const lookups = new WeakMap<Tensor, number>();

/** Begins to count, from 0, how many ids embeddings look up in a table. */
export function countLookups(table: Tensor): void {
  lookups.set(table, 0);
}

/** How many ids were looked up in a table since its {@link countLookups}; 0 without. */
export function lookupsOf(table: Tensor): number {
  return lookups.get(table) ?? 0;
}

/** Rows of a table by id: int64 or int32 (...) -> (..., size). `weight` is (count, size) and starts as N(0, 1). */
export class Embedding extends Module {
  readonly count: number;
  readonly size: number;
  weight: Parameter; // (count, size)

  constructor(options: EmbeddingOptions) {
    super();
    this.count = size('Embedding: count', options.count);
    this.size = size('Embedding: size', options.size);
    this.weight = parameter(empty([this.count, this.size], { dtype: options.dtype, device: options.device }));
    init.normal(this.weight);
  }

  forward(ids: Tensor): Tensor {
    if (!(ids instanceof Tensor) || (ids.dtype !== 'int64' && ids.dtype !== 'int32')) {
      const received = ids instanceof Tensor ? `a ${ids.dtype} tensor` : describe(ids);
      throw new ShardloopError(
        'BAD_ARGUMENT',
        `Embedding: expected ids as an int64 or int32 tensor, received ${received}`,
      );
    }
    const known = lookups.get(this.weight);
    if (known !== undefined) lookups.set(this.weight, known + ids.numel);
    // Ours adds the rows of its gradient to one that the weight has already, instead of making one of the table's size.
    const isOurs =
      isOnKernelDevice(this.weight) && isFloatingDType(this.weight.dtype) && ids.device === this.weight.device;
    try {
      return isOurs ? (call('shardloop::embedding', this.weight, ids) as Tensor) : ops.embedding(this.weight, ids); // (..., size)
    } catch (cause) {
      const bad = ids.device === 'cpu' && Array.from(ids.dataSync(), Number).find((id) => id < 0 || id >= this.count);
      if (bad === false || bad === undefined) throw cause;
      const message = `Embedding: expected ids from 0 to ${this.count - 1}, received ${bad}`;
      throw new ShardloopError('BAD_ARGUMENT', message, { cause });
    }
  }

  override extraRepr(): string {
    return `count=${this.count}, size=${this.size}`;
  }
}
