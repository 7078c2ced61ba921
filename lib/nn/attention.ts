// Attention over libtorch's scaled_dot_product_attention: a function on heads, and the self-attention module that is
// built on it. Caches for generation belong to the models.
import { call, full, ones, ops, ShardloopError, scope, type Tensor } from '../core/index.js';
import { hasKernel } from './fused.js';
import { Linear } from './linear.js';
import { Module } from './module.js';
import { positive, probability, size, type TensorOptions } from './options.js';

/** Options of {@link attention}. */
export interface AttentionOptions {
  /** Query i sees the keys up to its own; with fewer queries than keys, the queries are the last ones (default false). */
  causal?: boolean;
  /**
   * Which keys count. bool (true = attend) or of q's dtype (added to the scores): (B, S) for padding, (B, T, S), or
   * (B, H, T, S); any of these sizes may be 1 but S.
   */
  mask?: Tensor | null;
  /** Probability with which an attention weight is dropped (default 0). Pass 0 in evaluation. */
  dropout?: number;
  /** Factor on the scores (default 1 / sqrt(D)). */
  scale?: number;
  /**
   * Kernels of our own where they apply (default true): on the CPU, for as many queries as keys and heads of k and v as of q,
   * in float32 or half precision, without mask and dropout. False takes libtorch's, which are the reference.
   */
  fused?: boolean;
}

/**
 * `softmax(scale q k^T + mask) v` for each head. q is (B, H, T, D), k and v are (B, G, S, D); with fewer heads G in k
 * and v than in q (grouped heads), H must be a multiple of G. The result is (B, H, T, D); a query that may see no key
 * gives zeros. Throws BAD_ARGUMENT when the shapes do not fit.
 */
export function attention(q: Tensor, k: Tensor, v: Tensor, options: AttentionOptions = {}): Tensor {
  const { causal = false, mask = null, dropout = 0, scale, fused = true } = options;
  checkHeads(q, k, v);
  probability('attention: dropout', dropout);
  if (scale !== undefined) positive('attention: scale', scale);
  const [queries, keys] = [q.shape[2]!, k.shape[2]!];
  const alike = k.shape.join() === q.shape.join() && v.shape[3] === q.shape[3];
  if (fused && mask === null && alike && k.dtype === q.dtype && v.dtype === q.dtype && takesFused(q, dropout)) {
    return call('shardloop::attention', q, k, v, causal, scale ?? q.shape[3]! ** -0.5) as Tensor;
  }
  return scope(() => {
    const square = queries === keys;
    const all = mask === null ? null : spread(mask, q, keys);
    // libtorch's own causal flag counts from the first key and takes no mask beside it.
    const flag = causal && square && all === null;
    const lower = causal && !flag && queries > 1 ? causalMask(q, keys) : null;
    const attn_mask = lower === null ? all : all === null ? lower : both(all, lower);
    // Without memory libtorch chooses the kernel that keeps all weights (T, S); the real ones keep none.
    if (q.device === 'meta') return ops._scaled_dot_product_flash_attention(q, k, v)[0];
    return ops.scaled_dot_product_attention(q, k, v, {
      attn_mask,
      dropout_p: dropout,
      is_causal: flag,
      scale: scale ?? null,
      enable_gqa: q.shape[1] !== k.shape[1],
    }); // (B, H, T, D)
  });
}

/**
 * {@link attention} of a sequence to itself, without mask, where q, k and v lie together as one projection gives them:
 * (B, T, 3, H, D) -> (B, T, H D). Its gradient lies so too, so nothing is copied.
 */
export function selfAttention(qkv: Tensor, options: Omit<AttentionOptions, 'mask'> = {}): Tensor {
  const [B, T, three, H, D] = qkv.shape as [number, number, number, number, number];
  if (qkv.ndim !== 5 || three !== 3) {
    throw new ShardloopError(
      'BAD_ARGUMENT',
      `selfAttention: expected q, k and v as (B, T, 3, H, D), received [${qkv.shape.join(', ')}]`,
    );
  }
  const { causal = false, dropout = 0, scale, fused = true } = options;
  probability('selfAttention: dropout', dropout);
  if (scale !== undefined) positive('selfAttention: scale', scale);
  return scope(() => {
    let y: Tensor; // (B, H, T, D)
    if (fused && takesFused(qkv, dropout)) {
      y = call('shardloop::self_attention', qkv, causal, scale ?? D ** -0.5) as Tensor;
    } else {
      const [q, k, v] = ops.unbind(ops.permute(qkv, [2, 0, 3, 1, 4])) as [Tensor, Tensor, Tensor];
      y = attention(q, k, v, options);
    }
    return ops.reshape(ops.transpose(y, 1, 2), [B, T, H * D]);
  });
}

function takesFused(t: Tensor, dropout: number): boolean {
  return dropout === 0 && t.numel > 0 && hasKernel(t);
}

function checkHeads(q: Tensor, k: Tensor, v: Tensor): void {
  const [b, h, , d] = q.shape;
  const groups = k.shape[1]!;
  const sameBatch = k.shape[0] === b && v.shape[0] === b;
  const fits = sameBatch && v.shape[1] === groups && h! % groups === 0 && k.shape[3] === d && k.shape[2] === v.shape[2];
  if (q.ndim === 4 && k.ndim === 4 && v.ndim === 4 && fits) return;
  const shapes = [q, k, v].map((t) => `[${t.shape.join(', ')}]`).join(', ');
  throw new ShardloopError(
    'BAD_ARGUMENT',
    `attention: expected q (B, H, T, D), k and v (B, G, S, D) with H a multiple of G; received ${shapes}`,
  );
}

/** The mask as something of four dimensions that broadcasts to (B, H, T, S). */
function spread(mask: Tensor, q: Tensor, keys: number): Tensor {
  const [b, h, queries] = q.shape as [number, number, number];
  const n = [...mask.shape];
  const shape = n.length === 2 ? [n[0]!, 1, 1, n[1]!] : n.length === 3 ? [n[0]!, 1, n[1]!, n[2]!] : n;
  const wanted = [b, h, queries, keys];
  const fits = shape.length === 4 && shape[3] === keys && shape.every((size, i) => size === 1 || size === wanted[i]);
  if (!fits || (mask.dtype !== 'bool' && mask.dtype !== q.dtype)) {
    throw new ShardloopError(
      'BAD_ARGUMENT',
      `attention: expected a bool or ${q.dtype} mask that is (B, S), (B, T, S) or (B, H, T, S) of (${wanted.join(', ')}); received ${mask.dtype} [${n.join(', ')}]`,
    );
  }
  return ops.reshape(mask, shape);
}

/** (T, S) of bool: query i of the last T positions sees key j when j <= S - T + i. */
function causalMask(q: Tensor, keys: number): Tensor {
  const queries = q.shape[2]!;
  return ops.tril(ones([queries, keys], { dtype: 'bool', device: q.device }), { diagonal: keys - queries });
}

function both(mask: Tensor, lower: Tensor): Tensor {
  if (mask.dtype === 'bool') return ops.logical_and(mask, lower);
  return ops.where(lower, mask, full([], Number.NEGATIVE_INFINITY, { dtype: mask.dtype, device: mask.device }));
}

/** Options of {@link SelfAttention}. */
export interface SelfAttentionOptions extends TensorOptions {
  /** Width of the input and the output. */
  size: number;
  /** Heads of the queries; must divide `size`. */
  heads: number;
  /** Heads of the keys and values; must divide `heads` (default: as many). */
  kvHeads?: number;
  /** Whether a position sees only itself and those before it (default true). */
  causal?: boolean;
  /** Probability with which an attention weight is dropped while training (default 0). */
  dropout?: number;
  /** Whether the projections have biases (default true). */
  bias?: boolean;
}

/** Attention of a sequence to itself: (B, T, size) -> (B, T, size), by four projections and {@link attention}. */
export class SelfAttention extends Module {
  readonly heads: number;
  readonly kvHeads: number;
  readonly causal: boolean;
  readonly dropout: number;
  query: Linear;
  key: Linear;
  value: Linear;
  output: Linear;

  constructor(options: SelfAttentionOptions) {
    super();
    const { heads, kvHeads = heads, causal = true, dropout = 0, bias = true, dtype, device } = options;
    const width = size('SelfAttention: size', options.size);
    this.heads = size('SelfAttention: heads', heads);
    this.kvHeads = size('SelfAttention: kvHeads', kvHeads);
    if (width % heads !== 0 || heads % kvHeads !== 0) {
      throw new ShardloopError(
        'BAD_ARGUMENT',
        `SelfAttention: expected size to be a multiple of heads and heads of kvHeads; received size ${width}, heads ${heads}, kvHeads ${kvHeads}`,
      );
    }
    this.causal = causal;
    this.dropout = probability('SelfAttention: dropout', dropout);
    const small = (width / heads) * kvHeads;
    this.query = new Linear({ in: width, out: width, bias, dtype, device });
    this.key = new Linear({ in: width, out: small, bias, dtype, device });
    this.value = new Linear({ in: width, out: small, bias, dtype, device });
    this.output = new Linear({ in: width, out: width, bias, dtype, device });
  }

  /** `mask` as in {@link AttentionOptions}. */
  forward(x: Tensor, options: { mask?: Tensor | null } = {}): Tensor {
    const q = split(this.query.forward(x), this.heads); // (B, H, T, D)
    const k = split(this.key.forward(x), this.kvHeads); // (B, G, T, D)
    const v = split(this.value.forward(x), this.kvHeads); // (B, G, T, D)
    const dropout = this.training ? this.dropout : 0;
    const y = attention(q, k, v, { causal: this.causal, mask: options.mask, dropout }); // (B, H, T, D)
    return this.output.forward(ops.flatten(ops.transpose(y, 1, 2), { start_dim: 2 })); // (B, T, C)
  }

  override extraRepr(): string {
    return `heads=${this.heads}, kvHeads=${this.kvHeads}, causal=${this.causal}, dropout=${this.dropout}`;
  }
}

/** (B, T, heads * D) -> (B, heads, T, D) */
function split(x: Tensor, heads: number): Tensor {
  const [b, t, c] = x.shape as [number, number, number];
  return ops.transpose(ops.view(x, [b, t, heads, c / heads]), 1, 2);
}
