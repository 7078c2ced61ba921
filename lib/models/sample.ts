// The choice of the next token from its scores, and the random numbers for it. Their own generator, so that generating
// in the middle of a training run does not disturb the run's random state.
import { describe, noGrad, ops, ShardloopError, scope, type Tensor, tensor } from '../core/index.js';
import { nameOf } from '../core/option-names.js';

/** How tokens are chosen. */
export interface SampleOptions {
  /** 0 takes the most probable token; above, scores are divided by it. Default 0. */
  readonly temperature?: number;
  /** Only the k most probable tokens are drawn from. Default: all. */
  readonly topK?: number;
  /** Only the most probable tokens whose probabilities first reach this sum are drawn from, in (0, 1]. Default 1. */
  readonly topP?: number;
}

/** Checks the options; BAD_ARGUMENT says which is out of range. */
export function checkSampleOptions({ temperature = 0, topK, topP = 1 }: SampleOptions): void {
  const isNumber = (value: unknown) => typeof value === 'number';
  const refuse = (name: string, expected: string, value: unknown) => {
    throw new ShardloopError(
      'BAD_ARGUMENT',
      `generate: ${nameOf(name)}: expected ${expected}, received ${describe(value)}`,
    );
  };
  if (!isNumber(temperature) || !(temperature >= 0 && temperature < Infinity))
    refuse('temperature', 'a number from 0 up', temperature);
  if (topK !== undefined && !(Number.isSafeInteger(topK) && topK > 0)) refuse('topK', 'a positive integer', topK);
  if (!isNumber(topP) || !(topP > 0 && topP <= 1)) refuse('topP', 'a number above 0 and up to 1', topP);
}

/**
 * One token for each row of logits (B, V). `uniforms` holds a number in [0, 1) for each row (not read at temperature 0).
 * Throws OP_FAILED when a score is NaN, which a diverged model gives.
 */
export function pickTokens(logits: Tensor, options: SampleOptions, uniforms: readonly number[]): number[] {
  const { temperature = 0, topK, topP = 1 } = options;
  return noGrad(() =>
    scope(() => {
      if (temperature === 0) {
        // A NaN counts as the largest score.
        const [best, places] = ops.max(logits, -1);
        refuseNaN(best);
        return toNumbers(places);
      }
      const scores = ops._to_copy(logits, { dtype: 'float32' }); // (B, V)
      refuseNaN(scores);
      const V = scores.shape[1]!;
      const [sorted, tokens] = ops.topk(scores, Math.min(topK ?? V, V)); // (B, K), falling
      // In float64 and below the best score, so that no temperature makes infinity of two different scores.
      const exact = ops._to_copy(sorted, { dtype: 'float64' });
      const below = ops.sub(exact, ops.slice(exact, { dim: 1, start: 0, end: 1 }));
      const all = ops.softmax(ops.div(below, temperature), -1);
      const before = ops.sub(ops.cumsum(all, -1), all); // The sum of the more probable ones.
      const kept = ops.mul(all, ops.lt(before, topP));
      const sums = ops.cumsum(kept, -1);
      const K = sums.shape[1]!;
      const draws = tensor([...uniforms], { dtype: 'float64', device: logits.device });
      const aim = ops.mul(ops.slice(sums, { dim: 1, start: K - 1, end: K }), ops.unsqueeze(draws, 1)); // (B, 1)
      const place = ops.sum(ops.le(sums, aim), [1], { keepdim: true }); // (B, 1)
      return toNumbers(ops.gather(tokens, 1, ops.clamp(place, { max: K - 1 })));
    }),
  );
}

function refuseNaN(scores: Tensor): void {
  if (ops.any(ops.isnan(scores)).itemSync() !== true) return;
  throw new ShardloopError('OP_FAILED', "generate: the model's scores are NaN; its weights have diverged");
}

function toNumbers(ids: Tensor): number[] {
  return Array.from(ids.dataSync() as BigInt64Array, Number);
}

/** A generator of numbers in [0, 1) from a seed and a stream number (SplitMix64; Steele, Lea, Flood 2014). */
export function uniformStream(seed: bigint, stream: number): () => number {
  const mix = (value: bigint) => {
    let z = BigInt.asUintN(64, value);
    z = BigInt.asUintN(64, (z ^ (z >> 30n)) * 0xbf58476d1ce4e5b9n);
    z = BigInt.asUintN(64, (z ^ (z >> 27n)) * 0x94d049bb133111ebn);
    return z ^ (z >> 31n);
  };
  let state = mix(seed + mix(BigInt(stream) + 1n));
  return () => {
    state = BigInt.asUintN(64, state + 0x9e3779b97f4a7c15n);
    return Number(mix(state) >> 11n) / 2 ** 53;
  };
}
