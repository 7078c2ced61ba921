// What goes into a GPT-2, checked: ids, positions, masks, and the targets of training, as the carry of its segments.
import {
  arange,
  describe,
  isIntegerDType,
  noGrad,
  ones,
  ops,
  ShardloopError,
  scope,
  Tensor,
  tensor,
} from '../../core/index.js';
import type { Carry } from '../../nn/index.js';
import type { KVCache } from '../kv-cache.js';

/** What {@link GPT2LMHeadModel.forward} takes beside the ids. */
export interface GPT2ForwardOptions {
  /** Positions (B, T) int64. Default: 0, 1, ... from the cache's length on; with `documentIds`, from each document's start. */
  readonly positionIds?: Tensor;
  /** Which positions are text (1 or true) and which padding: (B, S) with S = cached positions + T. Default: all. */
  readonly attentionMask?: Tensor;
  /** For packed sequences (B, T) int64: a position attends only to positions of its own document. */
  readonly documentIds?: Tensor;
  /** Keys and values of earlier positions; those of `ids` are added. */
  readonly cache?: KVCache;
  /** Scores of the last n positions only: the logits are (B, n, V). Default: all. */
  readonly keepLast?: number;
}

/** What {@link GPT2LMHeadModel.inputs} takes beside the ids. */
export interface GPT2InputOptions extends GPT2ForwardOptions {
  /**
   * What each position should predict (B, T) int64; -100 does not count. The last segment then gives the loss, without the
   * scores of all positions standing in memory. Default: none, and the last segment gives the scores.
   */
  readonly targets?: Tensor;
  /** What the sum of the losses is divided by. Default: the number of targets that count. Needs `targets`. */
  readonly divisor?: number;
}

/** The carry of the first segment: ids (B, T), positions (B, T) or (1, T), then what {@link maskOf} and {@link targetsOf} find. */
export function gpt2Inputs(ids: Tensor, options: GPT2InputOptions, n_positions: number): Carry {
  const { positionIds, attentionMask, documentIds, cache, targets, divisor } = options;
  if (!(ids instanceof Tensor) || ids.ndim !== 2 || !isIntegerDType(ids.dtype)) {
    const received = ids instanceof Tensor ? `a ${ids.dtype} tensor [${ids.shape.join(', ')}]` : describe(ids);
    throw new ShardloopError('BAD_ARGUMENT', `GPT-2: expected ids as int64 (B, T), received ${received}`);
  }
  const [B, T] = ids.shape as [number, number];
  if (ids.numel === 0) {
    throw new ShardloopError('BAD_ARGUMENT', `GPT-2: expected at least one token, received ids of shape [${B}, ${T}]`);
  }
  const past = cache?.length ?? 0;
  if (past + T > n_positions) {
    throw new ShardloopError(
      'BAD_ARGUMENT',
      `GPT-2: expected at most n_positions = ${n_positions} positions, received ${past + T}; cut the sequence`,
    );
  }
  expectShape('positionIds', positionIds, [B, T]);
  expectShape('attentionMask', attentionMask, [B, past + T]);
  expectShape('documentIds', documentIds, [B, T]);
  if (documentIds !== undefined && cache !== undefined) {
    throw new ShardloopError('BAD_ARGUMENT', 'GPT-2: documentIds cannot be used together with a cache');
  }
  expectShape('targets', targets, [B, T]);
  if (targets !== undefined && targets.dtype !== 'int64') {
    throw new ShardloopError('BAD_ARGUMENT', `GPT-2: targets: expected int64, received ${targets.dtype}`);
  }
  if (divisor !== undefined && (targets === undefined || !(divisor > 0 && divisor < Infinity))) {
    throw new ShardloopError(
      'BAD_ARGUMENT',
      `GPT-2: divisor: expected a number above 0, beside targets; received ${describe(divisor)}${targets ? '' : ' without targets'}`,
    );
  }
  return noGrad(() =>
    scope(() => {
      const positions = positionIds ?? positionsOf(past, T, ids.device, documentIds);
      const carry = [ids, positions];
      if (attentionMask !== undefined || documentIds !== undefined) {
        carry.push(attentionMaskOf(past, T, ids.device, attentionMask, documentIds));
      }
      if (targets !== undefined) carry.push(targets);
      if (divisor !== undefined) carry.push(tensor(divisor, { dtype: 'float64' }));
      return carry;
    }),
  );
}

/** The mask (B, 1, T, S) among what rides along behind the activations, if there is one. */
export function maskOf(rest: Carry): Tensor | null {
  return rest.find(({ dtype }) => dtype === 'bool') ?? null;
}

/** The targets (B, T) among what rides along, and what their loss is divided by, if there are any. */
export function targetsOf(rest: Carry): { targets: Tensor; divisor: number | undefined } | null {
  const targets = rest.find(({ dtype }) => dtype === 'int64');
  const divisor = rest.find(({ dtype }) => dtype === 'float64')?.itemSync();
  return targets === undefined ? null : { targets, divisor: divisor === undefined ? undefined : Number(divisor) };
}

function positionsOf(past: number, T: number, device: string, documentIds?: Tensor): Tensor {
  const steps = ops.unsqueeze(arange(past, past + T, 1, { dtype: 'int64', device }), 0); // (1, T)
  if (documentIds === undefined || T < 2) return steps;
  const before = ops.slice(documentIds, { dim: 1, start: 0, end: T - 1 });
  const begins = ops.ne(ops.slice(documentIds, { dim: 1, start: 1, end: T }), before); // (B, T - 1)
  const starts = ops.mul(ops.constant_pad_nd(ops._to_copy(begins, { dtype: 'int64' }), [1, 0]), steps); // (B, T)
  return ops.sub(steps, ops.cummax(starts, 1)[0]); // (B, T)
}

/** (T, S) of bool: query i of the last T positions sees key j when j <= S - T + i. */
export function causal(queries: number, keys: number, device: string): Tensor {
  return ops.tril(ones([queries, keys], { dtype: 'bool', device }), { diagonal: keys - queries });
}

function expectShape(name: string, t: Tensor | undefined, shape: number[]): void {
  if (t === undefined || t.shape.join() === shape.join()) return;
  throw new ShardloopError(
    'BAD_ARGUMENT',
    `GPT-2: ${name}: expected shape [${shape.join(', ')}], received [${t.shape.join(', ')}]`,
  );
}

/**
 * (B, 1, T, S) of bool: which keys a query sees. Every query sees itself, padding too: a row that saw nothing would be
 * NaN, and NaN would reach the gradients.
 */
function attentionMaskOf(past: number, T: number, device: string, padding?: Tensor, documents?: Tensor): Tensor {
  const S = past + T;
  let allowed = ops.view(causal(T, S, device), [1, 1, T, S]);
  if (padding !== undefined) {
    allowed = ops.logical_and(allowed, ops.unsqueeze(ops.unsqueeze(ops.ne(padding, 0), 1), 2)); // (B, 1, T, S)
  }
  if (documents !== undefined) {
    const same = ops.eq(ops.unsqueeze(documents, 2), ops.unsqueeze(documents, 1)); // (B, T, T)
    allowed = ops.logical_and(allowed, ops.unsqueeze(same, 1));
  }
  const self = ops.eq(
    ops.unsqueeze(arange(past, S, 1, { device }), 1), // (T, 1)
    ops.unsqueeze(arange(0, S, 1, { device }), 0), // (1, S)
  );
  return ops.logical_or(allowed, self);
}
