// Attention to a cache of keys and values, as generation has it: new positions join the cache and attend to all that it
// holds. Not here: the cache itself and how much of it is filled (models/kv-cache.ts).
import {
  call,
  isAutocastEnabled,
  isGradEnabled,
  noGrad,
  ops,
  ShardloopError,
  scope,
  type Tensor,
} from '../core/index.js';
import { attention } from './attention.js';
import { positive, probability } from './options.js';

/** Beyond this many new positions at a time libtorch's products win. */
const FEW_POSITIONS = 16;

/** Options of {@link cachedAttention}. */
export interface CachedAttentionOptions {
  /** Which positions a query sees, bool (B, 1, T, past + T). Default: those up to its own. */
  mask?: Tensor | null;
  /** Probability with which an attention weight is dropped (default 0). Pass 0 in evaluation. */
  dropout?: number;
  /** Factor on the scores (default 1 / sqrt(D)). */
  scale?: number;
  /**
   * A kernel of our own where it applies (default true): on the CPU, for a few positions in float32 or bfloat16 without
   * gradients and dropout. False writes and attends by ops of libtorch, which are the reference.
   */
  fused?: boolean;
}

/**
 * Writes k and v of T new positions, q, k and v together as (B, T, 3, H, D), into `keys` and `values` (B, H, L, D)
 * behind the `past` positions that they hold, and attends to all of them: (B, T, H D). Throws BAD_ARGUMENT when the
 * shapes do not fit.
 */
export function cachedAttention(
  qkv: Tensor,
  keys: Tensor,
  values: Tensor,
  past: number,
  options: CachedAttentionOptions = {},
): Tensor {
  const { mask = null, dropout = 0, scale, fused = true } = options;
  const [B, T, three, H, D] = qkv.shape as [number, number, number, number, number];
  if (qkv.ndim !== 5 || three !== 3) {
    throw new ShardloopError(
      'BAD_ARGUMENT',
      `cachedAttention: expected q, k and v as (B, T, 3, H, D), received [${qkv.shape.join(', ')}]`,
    );
  }
  probability('cachedAttention: dropout', dropout);
  if (scale !== undefined) positive('cachedAttention: scale', scale);
  if (fused && dropout === 0 && T <= FEW_POSITIONS && takesKernel(qkv, keys, values)) {
    return call('shardloop::cached_attention', qkv, keys, values, past, mask, scale ?? D ** -0.5) as Tensor;
  }
  return scope(() => {
    const [q, k, v] = ops.unbind(ops.permute(qkv, [2, 0, 3, 1, 4])) as [Tensor, Tensor, Tensor]; // (B, H, T, D) each
    const all = { causal: mask === null, mask, dropout, scale };
    const y = attention(q, appended(keys, k, past), appended(values, v, past), all); // (B, H, T, D)
    return ops.reshape(ops.transpose(y, 1, 2), [B, T, H * D]);
  });
}

/** Writes `fresh` (B, H, T, D) behind `past` positions of `all` (B, H, L, D): a view (B, H, past + T, D) of what it holds. */
export function appended(all: Tensor, fresh: Tensor, past: number): Tensor {
  const end = past + fresh.shape[2]!;
  return scope(() => {
    noGrad(() => ops.copy_(ops.slice(all, { dim: 2, start: past, end }), fresh));
    return ops.slice(all, { dim: 2, start: 0, end });
  });
}

function takesKernel(qkv: Tensor, keys: Tensor, values: Tensor): boolean {
  if (isGradEnabled() || isAutocastEnabled()) return false;
  const { dtype } = qkv;
  if ((dtype !== 'float32' && dtype !== 'bfloat16') || qkv.device !== 'cpu') return false;
  return [keys, values].every((t) => t.dtype === dtype && t.device === 'cpu' && t.isContiguous);
}
