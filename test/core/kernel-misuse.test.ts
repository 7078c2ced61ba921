// The native ops behind loss, attention, GELU and generation by their names, with tensors that do not fit: an error each, and nothing is
// read or written beside a tensor.
import { describe, expect, it } from 'vitest';
import { call, ops, randn, type Tensor, tensor } from '../../lib/core/index.js';

const q = randn([1, 2, 5, 4]);
const sums = randn([1, 2, 5]);
const logits = randn([3, 4]);
const labels = tensor([0n, 1n, 2n]);
const rows = randn([3]);
const packed = randn([1, 2, 3, 2, 4]); // q, k and v of two positions
const held = () => randn([1, 2, 6, 4]);
const shared = held();
const halved = (t: Tensor): Tensor => t.to({ dtype: 'bfloat16' });
const trained = (...shape: number[]): Tensor => randn(shape, { requiresGrad: true });
const meta = (t: Tensor): Tensor => t.to({ device: 'meta' });

const CASES: [string, unknown[], RegExp][] = [
  ['attention', [q, q, randn([1, 2, 6, 4]), true, 1], /one shape/],
  ['attention', [q, q, q.to({ dtype: 'bfloat16' }), true, 1], /one dtype/],
  [
    'attention',
    [q.to({ dtype: 'float64' }), q.to({ dtype: 'float64' }), q.to({ dtype: 'float64' }), true, 1],
    /float32/,
  ],
  ['attention', [sums, sums, sums, true, 1], /\(B, H, T, D\)/],
  ['self_attention', [q, true, 1], /\(B, T, 3, H, D\)/],
  ['attention_heads_backward', [randn([1, 2, 5, 3]), q, q, q, q, sums, true, 1], /q's shape/],
  ['attention_heads_backward', [q, q, q, q, randn([1, 2, 4, 4]), sums, true, 1], /q's shape/],
  ['attention_heads_backward', [q, q, q, q, q, randn([1, 2, 4]), true, 1], /logsumexp/],
  ['cross_entropy', [rows, labels, -100, 0], /logits \(N, V\)/],
  ['cross_entropy', [logits, tensor([0n]), -100, 0], /labels \(N\)/],
  ['cross_entropy', [logits, rows, -100, 0], /int64 labels/],
  ['cross_entropy', [logits, labels, -100, 2], /label_smoothing/],
  ['cross_entropy', [randn([3, 0]), labels, -100, 0], /logits \(N, V\)/],
  ['cross_entropy_rows_backward', [randn([2]), logits, labels, rows, -100, 0], /each row/],
  ['cross_entropy_rows_backward', [rows, logits, labels, randn([1]), -100, 0], /each row/],
  ['linear_cross_entropy', [logits, randn([5, 3]), labels, -100, 0, null], /weight \(V, D\)/],
  ['linear_cross_entropy', [logits, randn([0, 4]), labels, -100, 0, null], /weight \(V, D\)/],
  ['linear_cross_entropy', [logits, randn([5, 4]), tensor([0n]), -100, 0, null], /labels \(N\)/],
  ['linear_cross_entropy', [logits, randn([5, 4]), rows, -100, 0, null], /int64 labels/],
  ['linear_cross_entropy', [logits, halved(randn([5, 4])), labels, -100, 0, null], /one floating dtype/],
  ['linear_cross_entropy', [logits, randn([5, 4]), labels, -100, 2, null], /label_smoothing/],
  ['linear_cross_entropy', [logits, randn([5, 4]), labels, -100, 0, 0], /divisor/],
  ['widened_linear', [logits, randn([3, 4]), null], /one half precision/],
  ['widened_linear', [halved(logits), halved(randn([3, 5])), null], /\(M, K\)/],
  ['widened_linear', [halved(logits), halved(randn([3, 4])), halved(randn([4]))], /bias \(M\)/],
  ['widened_linear_backward', [halved(logits), null, halved(randn([4, 5])), [true, true, true]], /x \(\.\.\., K\)/],
  ['widened_linear_backward', [halved(logits), null, halved(randn([5, 4])), [true, false, false]], /gradient/],
  [
    'widened_linear_backward',
    [halved(logits), halved(randn([2, 5])), halved(randn([4, 5])), [true, true, true]],
    /as many rows/,
  ],
  ['lora_linear', [logits, randn([5, 4]), null, randn([2, 3]), randn([5, 2]), 1, false], /a \(R, K\)/],
  ['lora_linear', [logits, randn([5, 4]), null, randn([2, 4]), randn([5, 3]), 1, false], /b \(M, R\)/],
  ['lora_linear', [logits, randn([5, 4]), null, halved(randn([2, 4])), randn([5, 2]), 1, false], /one dtype/],
  ['lora_linear', [logits, trained(5, 4), null, randn([2, 4]), randn([5, 2]), 1, false], /frozen/],
  ['affine', [logits, randn([3, 4]), null, true], /in, out/],
  ['affine', [logits, randn([5, 3]), null, false], /out, in/],
  ['affine', [logits, randn([4, 5]), randn([4]), true], /bias \(out\)/],
  ['affine', [logits, randn([4, 5]).to({ dtype: 'bfloat16' }), null, true], /one dtype/],
  ['affine', [labels, labels, null, true], /float32 and bfloat16/],
  ['affine', [randn([]), randn([1, 1]), null, true], /x \(..., in\)/],
  ['cached_attention', [q, held(), held(), 0, null, 1], /\(B, T, 3, H, D\)/],
  ['cached_attention', [packed, held(), held(), 5, null, 1], /past \+ T/],
  ['cached_attention', [packed, held(), held(), -1, null, 1], /past \+ T/],
  ['cached_attention', [packed, held(), randn([1, 2, 7, 4]), 0, null, 1], /keys and values/],
  ['cached_attention', [packed, randn([1, 2, 4, 6]).transpose(2, 3), held(), 0, null, 1], /contiguous/],
  ['cached_attention', [packed, held().to({ dtype: 'bfloat16' }), held(), 0, null, 1], /one dtype/],
  ['cached_attention', [packed, shared, shared, 0, null, 1], /own memory/],
  ['cached_attention', [packed, held(), held(), 0, rows, 1], /mask of bool/],
  ['gelu_linear', [logits, randn([5, 3]), null], /weight \(M, K\)/],
  ['gelu_linear', [logits, randn([5, 4]), randn([4])], /bias \(M\)/],
  ['gelu_linear', [logits, halved(randn([5, 4])), null], /one dtype/],
  ['gelu_linear', [logits, meta(randn([5, 4])), null], /one device/],
  ['gelu_linear', [randn([]), randn([5, 4]), null], /x \(\.\.\., K\)/],
  ['gelu_tanh', [labels], /float32, bfloat16 or float16/],
  ['gelu_tanh_backward', [randn([2]), rows], /x's shape/],
];

describe('native ops', () => {
  it.each(CASES)('%s refuses what does not fit (%#)', (name, values, message) => {
    expect(() => call(`shardloop::${name}`, ...(values as never[]))).toThrow(message);
  });

  it('survive tensors of several devices, and none of elements', () => {
    const tried: [string, unknown[]][] = [
      ['attention', [q, meta(q), q, true, 1]],
      ['attention_heads_backward', [q, q, q, q, q, meta(sums), true, 1]],
      ['cross_entropy', [logits, meta(labels), -100, 0]],
      ['cross_entropy_rows_backward', [rows, logits, labels, meta(rows), -100, 0]],
      ['linear_cross_entropy', [logits, meta(randn([5, 4])), labels, -100, 0, null]],
      ['linear_cross_entropy', [meta(logits), randn([5, 4]), labels, -100, 0, null]],
      ['linear_cross_entropy', [logits, randn([5, 4]), meta(labels), -100, 0, null]],
      ['gelu_tanh_backward', [meta(rows), rows]],
      ['affine', [logits, meta(randn([4, 5])), null, true]],
      ['cached_attention', [packed, meta(held()), held(), 0, null, 1]],
    ];
    for (const [name, values] of tried) {
      // Either an error, or the shape of a result on the meta device.
      try {
        const result = call(`shardloop::${name}`, ...(values as never[])) as Tensor;
        expect(result.device, name).toBe('meta');
      } catch (error) {
        expect((error as { code?: string }).code, name).toMatch(/BAD_ARGUMENT|OP_FAILED/);
      }
    }
    const none = randn([0, 2, 5, 4]);
    expect((call('shardloop::attention', none, none, none, true, 1) as Tensor).shape).toEqual([0, 2, 5, 4]);
    const empty = randn([1, 2, 0, 4]);
    expect((call('shardloop::attention', empty, empty, empty, false, 1) as Tensor).numel).toBe(0);
    const thin = randn([1, 2, 5, 0]);
    expect((call('shardloop::attention', thin, thin, thin, false, 1) as Tensor).numel).toBe(0);
    expect((call('shardloop::gelu_tanh', randn([0])) as Tensor).numel).toBe(0);
    expect((call('shardloop::affine', randn([0, 4]), randn([4, 5]), null, true) as Tensor).shape).toEqual([0, 5]);
    const nothing = call('shardloop::affine', randn([2, 0]), randn([0, 5]), null, true) as Tensor;
    expect(nothing.toArray()).toEqual([new Array(5).fill(0), new Array(5).fill(0)]);
    const unlabelled = call('shardloop::cross_entropy', randn([0, 4]), ops.empty([0], { dtype: 'int64' }), -100, 0);
    expect((unlabelled as Tensor).shape).toEqual([0]);
    const nobody = ops.empty([0], { dtype: 'int64' });
    const sum = call('shardloop::linear_cross_entropy', randn([0, 4]), randn([5, 4]), nobody, -100, 0, 1) as Tensor;
    expect(sum.itemSync()).toBe(0);
    const flat = call('shardloop::linear_cross_entropy', randn([3, 0]), randn([4, 0]), labels, -100, 0, 3) as Tensor;
    expect(flat.itemSync()).toBeCloseTo(Math.log(4), 6);
  });
});
