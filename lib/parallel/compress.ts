// Gradients in fewer bytes on their way to the ranks that own them: every rank sends each other one the compressed piece of
// that rank's shard (an all-to-all), and the owner adds up what it unpacks, in float32.
//   int8  blocks of 256 elements, each with a float32 scale: a quarter of float32's bytes
//   topk  the largest elements of each piece with their places; what was not sent is kept and added to the next gradient
//         (error feedback: Karimireddy et al., arXiv 1901.09847), which takes memory for a whole float32 gradient
import { call, noGrad, ops, owned, type Tensor, zeros } from '../core/index.js';

/** How gradients are compressed. */
export type Compression = { readonly kind: 'int8' } | { readonly kind: 'topk'; readonly ratio: number };

const BLOCK = 256;

/** Packs pieces (size, n) of float32 into bytes (size, m) and the sum of what came back. */
export interface Codec {
  /** `memory` (size, n), if the codec {@link remembers}: what earlier pieces of this place left unsent; updated. */
  pack(pieces: Tensor, memory: Tensor | null): Tensor;
  /** The sum (n) over the ranks of what they packed for this one. */
  unpack(packed: Tensor, n: number): Tensor;
  readonly remembers: boolean;
}

export function codecOf(compression: Compression): Codec {
  return compression.kind === 'int8' ? int8 : topk(compression.ratio);
}

const int8: Codec = {
  remembers: false,
  pack(pieces) {
    const [size, n] = pieces.shape as [number, number];
    const padded = ops.constant_pad_nd(pieces, [0, blocksOf(n) * BLOCK - n]);
    const blocks = ops.view(padded, [size, blocksOf(n), BLOCK]);
    const largest = ops.amax(ops.abs(blocks), { dim: [2], keepdim: true }); // (size, blocks, 1)
    const scales = ops.div(ops.clamp_min(largest, 1e-30), 127);
    const whole = ops._to_copy(ops.round(ops.div(blocks, scales)), { dtype: 'int8' });
    return ops.cat([asBytes(whole, size), asBytes(scales, size)], { dim: 1 });
  },
  unpack(packed, n) {
    const size = packed.shape[0]!;
    const count = blocksOf(n);
    const whole = as(ops.narrow(packed, 1, 0, count * BLOCK), 'int8', [size, count, BLOCK]);
    const scales = as(ops.narrow(packed, 1, count * BLOCK, count * 4), 'float32', [size, count, 1]);
    const sum = ops.sum(ops.mul(ops._to_copy(whole, { dtype: 'float32' }), scales), [0]); // (blocks, BLOCK)
    return ops.narrow(ops.view(sum, [count * BLOCK]), 0, 0, n);
  },
};

const topk = (ratio: number): Codec => {
  const kept = (n: number) => Math.max(1, Math.ceil(n * ratio));
  return {
    remembers: true,
    pack(pieces, memory) {
      const size = pieces.shape[0]!;
      const owed = ops.add_(memory!, pieces); // (size, n)
      const [, places] = ops.topk(ops.abs(owed), kept(pieces.shape[1]!), { dim: 1, sorted: false }); // (size, k) int64
      const values = ops.gather(owed, 1, places);
      ops.scatter_(owed, 1, places, 0); // what is sent is no longer owed
      const where = ops._to_copy(places, { dtype: 'int32' });
      return ops.cat([asBytes(values, size), asBytes(where, size)], { dim: 1 });
    },
    unpack(packed, n) {
      const size = packed.shape[0]!;
      const k = kept(n);
      const values = as(ops.narrow(packed, 1, 0, 4 * k), 'float32', [size * k]);
      const places = ops._to_copy(as(ops.narrow(packed, 1, 4 * k, 4 * k), 'int32', [size * k]), { dtype: 'int64' });
      return ops.index_add(zeros([n], { device: packed.device }), 0, places, values);
    },
  };
};

const blocksOf = (n: number) => Math.ceil(n / BLOCK);

/** The bits of `t` as (rows, bytes) of uint8. */
function asBytes(t: Tensor, rows: number): Tensor {
  return ops.view(call('aten::view.dtype', ops.contiguous(t), 'uint8') as Tensor, [rows, -1]);
}

/** Bytes as elements of `dtype` in this shape. */
function as(bytes: Tensor, dtype: string, shape: number[]): Tensor {
  return ops.view(call('aten::view.dtype', ops.view(ops.contiguous(bytes), [-1]), dtype) as Tensor, shape);
}

/** Memory of a codec that remembers, for one place: (size, n) zeros. */
export function emptyMemory(size: number, n: number, device: string): Tensor {
  return noGrad(() => owned(() => zeros([size, n], { device })));
}
