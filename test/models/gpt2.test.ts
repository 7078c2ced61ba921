// GPT-2 by itself: configuration, names, segments, masks, cache, dropouts and memory. Numbers against Python's are in
// test/oracle/gpt2.test.ts.
import { describe, expect, it } from 'vitest';
import { autocast, manualSeed, memory, noGrad, ops, scope, type Tensor, tensor, zeros } from '../../lib/core/index.js';
import { readGPT2Config } from '../../lib/models/gpt2/hf.js';
import { type GPT2Config, GPT2LMHeadModel, gpt2Config, gpt2ParameterCount, gpt2Plan } from '../../lib/models/index.js';
import { crossEntropy, segmentParameters } from '../../lib/nn/index.js';
import { addLora } from '../../lib/peft/index.js';
import { raises } from '../core/raises.js';

const SMALL: Partial<GPT2Config> = { vocab_size: 40, n_positions: 16, n_embd: 24, n_layer: 2, n_head: 3 };
const make = (given: Partial<GPT2Config> = {}) => {
  manualSeed(1);
  return new GPT2LMHeadModel({ ...SMALL, ...given }).eval();
};
const int64 = (rows: number[][]) => tensor(rows, { dtype: 'int64' });
const ids = int64([
  [3, 1, 4, 1, 5, 9, 2, 6],
  [2, 7, 1, 8, 2, 8, 1, 8],
]);

/** The largest difference of two tensors. */
function distance(a: Tensor, b: Tensor): number {
  expect([...a.shape]).toEqual([...b.shape]);
  return scope(() => ops.max(ops.abs(ops.sub(a, b))).itemSync() as number);
}

describe('memory', () => {
  it('a forward leaves its result alone, and training steps leave nothing', () => {
    const model = make().train();
    const labels = int64([
      [3, 1, 4, 1, 5, 9, 2, 6],
      [2, 7, 1, 8, 2, 8, 1, -100],
    ]);
    const step = () => {
      scope(() => model.loss(ids, labels).backward());
      model.zeroGrad();
    };
    step();
    const before = memory.stats().handles;
    for (let i = 0; i < 5; i++) step();
    expect(memory.stats().handles).toBe(before);
    const logits = model.forward(ids);
    expect(memory.stats().handles).toBe(before + 1);
    logits.dispose();
  });
});

describe('the configuration', () => {
  it('has the defaults of GPT2Config', () => {
    const config = gpt2Config();
    expect([config.n_embd, config.vocab_size, config.eos_token_id]).toEqual([768, 50257, 50256]);
    expect(gpt2Config({ vocab_size: 300 }).eos_token_id).toBeNull();
    expect(gpt2Config({ vocab_size: 300, eos_token_id: [1, 2] }).eos_token_id).toEqual([1, 2]);
    expect(gpt2ParameterCount(config)).toBe(124_439_808);
  });

  it.each([
    [{ vocab_size: 0 }, /vocab_size: expected a positive integer, received 0/],
    [{ n_inner: 1.5 }, /n_inner: expected a positive integer or null/],
    [{ n_embd: 25 }, /expected n_head to divide n_embd/],
    [{ activation_function: 'gelo' }, /expected one of gelu.*received "gelo"/],
    [{ attn_pdrop: 1 }, /attn_pdrop: expected a number from 0/],
    [{ layer_norm_epsilon: 0 }, /layer_norm_epsilon/],
    [{ initializer_range: -1 }, /initializer_range/],
    [{ scale_attn_weights: 1 as unknown as boolean }, /scale_attn_weights: expected true or false/],
    [{ eos_token_id: 'x' as unknown as number }, /eos_token_id/],
  ])('refuses %o', (given, message) => {
    expect(() => gpt2Config({ ...SMALL, ...given })).toThrow(message);
  });

  it('takes the general names of config.json, and refuses contradictions and what GPT-2 here is not', () => {
    const config = readGPT2Config({
      hidden_size: 24,
      num_attention_heads: 3,
      num_hidden_layers: 1,
      max_position_embeddings: 9,
    });
    expect(config).toMatchObject({ n_embd: 24, n_head: 3, n_layer: 1, n_positions: 9 });
    expect(() => readGPT2Config({ hidden_size: 24, n_embd: 48 })).toThrow(/n_embd = 48 and hidden_size = 24/);
    expect(() => readGPT2Config({ add_cross_attention: true })).toThrow(/add_cross_attention = true is not supported/);
    expect(() => readGPT2Config({ quantization_config: { bits: 4 } })).toThrow(/quantization_config/);
    expect(readGPT2Config({ pruned_heads: {}, unknown_key: 3 }).n_layer).toBe(12);
  });
});

describe('parameters', () => {
  it.each([true, false])('are those of the plan, tied: %s', (tie_word_embeddings) => {
    const model = make({ tie_word_embeddings, n_inner: 30 });
    const own = model.namedParameters().map(([name, t]) => ({ name, shape: [...t.shape] }));
    const plan = gpt2Plan(model.config);
    const byName = (list: { name: string; shape: readonly number[] }[]) =>
      Object.fromEntries(list.map(({ name, shape }) => [name, shape]));
    expect(byName(own)).toEqual(byName(plan));
    expect(model.stateDict().has('lm_head.weight')).toBe(true);
    const bySegment = new Map(model.segments().map((part) => [part.name, new Set(segmentParameters(part))]));
    for (const { name, segment } of plan) {
      const t = model.stateDict().get(name)!;
      expect(bySegment.get(segment)!.has(t)).toBe(true);
    }
    expect(bySegment.get('head')!.has(model.transformer.wte.weight)).toBe(tie_word_embeddings);
  });

  it("start by GPT-2's rules", () => {
    const model = new GPT2LMHeadModel({ ...SMALL, n_embd: 96, initializer_range: 0.1, n_layer: 8 });
    const std = (t: Tensor) => ops.std(t).itemSync() as number;
    const { wte, h, ln_f } = model.transformer;
    expect(std(wte.weight)).toBeCloseTo(0.1, 2);
    const state = model.stateDict();
    expect(std(state.get('transformer.h.0.mlp.c_fc.weight')!)).toBeCloseTo(0.1, 2);
    expect(std(state.get('transformer.h.0.mlp.c_proj.weight')!)).toBeCloseTo(0.1 / 4, 2);
    expect(ops.sum(ops.abs(state.get('transformer.h.0.attn.c_attn.bias')!)).itemSync()).toBe(0);
    expect(ln_f.weight.toArray()).toEqual(new Array(96).fill(1));
    expect(h[0]!.ln_1.eps).toBe(1e-5);
  });

  it('may be made in another dtype, or without memory', () => {
    const half = new GPT2LMHeadModel(SMALL, { dtype: 'bfloat16' });
    expect(new Set(half.parameters().map((t) => t.dtype))).toEqual(new Set(['bfloat16']));
    const shapes = new GPT2LMHeadModel({}, { device: 'meta', dtype: 'bfloat16' });
    expect(new Set(shapes.parameters().map((t) => `${t.device} ${t.dtype}`))).toEqual(new Set(['meta bfloat16']));
    expect(shapes.lm_head).toHaveProperty('weight', shapes.transformer.wte.weight);
  });
});

it('refuses keys that no GPT-2 has, ids that the vocabulary lacks, and no token at all', () => {
  const config = { vocab_size: 11, n_positions: 8, n_embd: 8, n_layer: 1, n_head: 2 };
  const slip = raises('BAD_ARGUMENT', () => new GPT2LMHeadModel({ ...config, n_layers: 1 } as object));
  expect(slip.message).toContain("unknown option 'n_layers'; did you mean 'n_layer'?");
  const model = new GPT2LMHeadModel(config);
  for (const bad of [11, -1]) {
    const error = raises('BAD_ARGUMENT', () => model.forward(tensor([[1, bad]], { dtype: 'int64' })));
    expect(error.message).toContain(`from 0 to 10 (vocab_size 11), received ${bad}`);
  }
  for (const shape of [
    [1, 0],
    [0, 3],
  ]) {
    const ids = zeros(shape, { dtype: 'int64' });
    expect(raises('BAD_ARGUMENT', () => model.forward(ids)).message).toContain('at least one token');
    expect(raises('BAD_ARGUMENT', () => model.loss(ids, ids)).message).toContain('at least one token');
  }
  model.dispose();
});

describe('forward', () => {
  it('by segments is forward, masks included', () => {
    const model = make();
    for (const options of [
      {},
      {
        attentionMask: int64([
          [1, 1, 1, 1, 1, 1, 1, 1],
          [0, 0, 1, 1, 1, 1, 1, 1],
        ]),
      },
    ]) {
      let carry = model.inputs(ids, options);
      for (const part of model.segments()) carry = part.forward(carry);
      expect(distance(carry[0]!, model.forward(ids, options))).toBe(0);
    }
  });

  it('with targets gives by segments the loss that the scores have, divided as told, whatever the head is', () => {
    const targets = int64([
      [1, 4, 1, 5, 9, 2, 6, -100],
      [7, 1, 8, 2, 8, 1, -100, -100],
    ]);
    const attentionMask = int64([[1, 1, 1, 1, 1, 1, 1, 1], new Array(8).fill(1).fill(0, 0, 2)]);
    const loraHead = make();
    addLora(loraHead, { targetModules: ['lm_head'], rank: 2 });
    for (const model of [make(), make({ tie_word_embeddings: false }), loraHead]) {
      for (const options of [{}, { attentionMask }]) {
        const logits = model.forward(ids, options);
        for (const divisor of [undefined, 5]) {
          let carry = model.inputs(ids, { ...options, targets, ...(divisor && { divisor }) });
          for (const part of model.segments()) carry = part.forward(carry);
          const expected = crossEntropy(logits, targets, { reduction: 'sum' });
          expect(carry.length).toBe(1);
          expect(distance(carry[0]!, ops.div(expected, divisor ?? 13))).toBeLessThan(1e-5);
        }
      }
    }
  });

  it('computes no scores beyond the loss', () => {
    const model = make({ vocab_size: 30011 });
    const targets = int64([[1, 4, 1, 5, 9, 2, 6, 3]]);
    const peak = (work: () => unknown) =>
      scope(() => {
        const before = memory.allocatorStats('cpu').allocated;
        memory.resetPeak('cpu');
        work();
        return memory.allocatorStats('cpu').peak - before;
      });
    const rows = 32;
    const many = ops.repeat(targets, [rows, 2]); // (32, 16)
    const scores = rows * 16 * 30011 * 4;
    const bySegments = () => {
      let carry = model.inputs(many, { targets: many });
      for (const part of model.segments()) carry = part.forward(carry);
    };
    expect(peak(() => noGrad(() => model.forward(many)))).toBeGreaterThan(scores);
    // Half of them stand in 32 MB, and nothing of the weight's size.
    expect(peak(() => noGrad(() => model.loss(many, many)))).toBeLessThan(0.6 * scores);
    expect(peak(() => noGrad(bySegments))).toBeLessThan(0.6 * scores);
  });

  it('keeps what its GELU gives only where another function stands in its place', () => {
    const kept = (activation_function: string) => {
      const model = make({ activation_function, n_inner: 1024 });
      return scope(() => {
        const before = memory.allocatorStats('cpu').allocated;
        model.forward(ids);
        return memory.allocatorStats('cpu').allocated - before;
      });
    };
    const output = 2 * 16 * 1024 * 4; // of two layers
    for (const name of ['gelu_new', 'gelu_fast', 'gelu_pytorch_tanh']) {
      expect(kept('gelu') - kept(name)).toBeGreaterThan(0.9 * output);
    }
  });

  it('refuses targets and divisors that do not fit', () => {
    const model = make();
    const wrong = raises('BAD_ARGUMENT', () => model.inputs(ids, { targets: int64([[1]]) }));
    expect(wrong.message).toContain('targets: expected shape [2, 8], received [1, 1]');
    const floats = raises('BAD_ARGUMENT', () => model.inputs(ids, { targets: zeros([2, 8]) }));
    expect(floats.message).toContain('targets: expected int64, received float32');
    for (const options of [{ divisor: 2 }, { targets: ids, divisor: 0 }]) {
      expect(raises('BAD_ARGUMENT', () => model.inputs(ids, options)).message).toContain(
        'divisor: expected a number above',
      );
    }
  });

  it('with documentIds computes each packed document as if it were alone', () => {
    const model = make();
    const packed = int64([[3, 1, 4, 1, 5, 9, 2, 6, 5]]);
    const logits = model.forward(packed, { documentIds: int64([[0, 0, 0, 7, 7, 7, 7, 1, 1]]) });
    const alone = [
      [3, 1, 4],
      [1, 5, 9, 2],
      [6, 5],
    ].map((row) => model.forward(int64([row])));
    expect(distance(logits, ops.cat(alone, { dim: 1 }))).toBeLessThan(1e-5);
    expect(distance(logits, model.forward(packed))).toBeGreaterThan(1e-4);
  });

  it('takes explicit positions', () => {
    const model = make();
    const shifted = model.forward(ids, {
      positionIds: int64([
        [1, 2, 3, 4, 5, 6, 7, 8],
        [0, 1, 2, 3, 4, 5, 6, 7],
      ]),
    });
    const plain = model.forward(ids);
    expect(distance(shifted.get(1), plain.get(1))).toBeLessThan(1e-6);
    expect(distance(shifted.get(0), plain.get(0))).toBeGreaterThan(1e-4);
  });

  it('with a cache, in pieces of any size, is forward', () => {
    const model = make();
    const whole = model.forward(ids);
    noGrad(() => {
      using cache = model.makeCache(2, 8);
      const pieces = [
        [0, 3],
        [3, 4],
        [4, 8],
      ].map(([start, end]) => model.forward(ops.slice(ids, { dim: 1, start, end }), { cache }));
      expect(cache.length).toBe(8);
      expect(distance(ops.cat(pieces, { dim: 1 }), whole)).toBeLessThan(1e-5);
      expect(() => model.forward(int64([[1], [2]]), { cache })).toThrow(/at most 8 positions, received 9/);
    });
  });

  it('keeps the last positions only when asked', () => {
    const model = make();
    const last = model.forward(ids, { keepLast: 2 });
    expect(distance(last, model.forward(ids).narrow(1, 6, 2))).toBeLessThan(1e-5);
    for (const keepLast of [0, 9, 1.5]) expect(() => model.forward(ids, { keepLast })).toThrow(/keepLast/);
  });

  it('gives finite gradients with padding in front', () => {
    const model = make();
    const mask = int64([
      [1, 1, 1, 1, 1, 1, 1, 1],
      [0, 0, 0, 0, 0, 0, 1, 1],
    ]);
    const labels = int64([
      [3, 1, 4, 1, 5, 9, 2, 6],
      [-100, -100, -100, -100, -100, -100, 1, 8],
    ]);
    model.loss(ids, labels, { attentionMask: mask }).backward();
    for (const t of model.parameters()) expect(ops.all(ops.isfinite(t.grad!)).itemSync()).toBe(true);
  });

  it.each([
    [
      'ids of one dimension',
      () => make().forward(tensor([1n, 2n])),
      /expected ids as int64 \(B, T\), received a int64 tensor \[2\]/,
    ],
    ['floating ids', () => make().forward(tensor([[1, 2]])), /received a float32 tensor/],
    ['no tensor', () => make().forward([[1]] as unknown as Tensor), /expected ids/],
    [
      'a sequence that is too long',
      () => make().forward(int64([new Array(17).fill(1)])),
      /n_positions = 16 positions, received 17/,
    ],
    [
      'a mask of another shape',
      () => make().forward(ids, { attentionMask: int64([[1, 1]]) }),
      /attentionMask: expected shape \[2, 8\]/,
    ],
    [
      'documents with a cache',
      () => make().forward(ids, { documentIds: ids, cache: make().makeCache(2) }),
      /together with a cache/,
    ],
  ])('refuses %s', (_, run, message) => {
    expect(run).toThrow(message);
  });
});

describe('options that show only in training or in half precision', () => {
  it.each(['resid_pdrop', 'embd_pdrop', 'attn_pdrop'] as const)('%s acts in training alone', (key) => {
    const none = { resid_pdrop: 0, embd_pdrop: 0, attn_pdrop: 0 };
    const model = make({ ...none, [key]: 0.5 });
    const still = make(none);
    expect(distance(model.forward(ids), still.forward(ids))).toBe(0);
    expect(distance(still.train().forward(ids), still.eval().forward(ids))).toBeLessThan(1e-6);
    expect(distance(model.train().forward(ids), still.forward(ids))).toBeGreaterThan(1e-3);
  });

  it('reorder_and_upcast_attn computes scores in fp32, under autocast too, and drops as told', () => {
    const at = (reorder_and_upcast_attn: boolean) => {
      const model = make({
        reorder_and_upcast_attn,
        initializer_range: 0.6,
        attn_pdrop: 0.5,
        resid_pdrop: 0,
        embd_pdrop: 0,
      });
      const cast = autocast({ dtype: 'bfloat16' }, () => model.forward(ids));
      return { model: model.to({ dtype: 'bfloat16' }), cast };
    };
    const [up, plain] = [at(true), at(false)];
    const padding = {
      attentionMask: int64([
        [1, 1, 1, 1, 1, 1, 1, 1],
        [0, 0, 1, 1, 1, 1, 1, 1],
      ]),
    };
    expect(distance(up.cast, plain.cast)).toBeGreaterThan(0);
    expect(distance(up.model.forward(ids), plain.model.forward(ids))).toBeGreaterThan(0);
    expect(distance(up.model.forward(ids, padding).get(0), up.model.forward(ids).get(0))).toBe(0);
    up.model.train();
    expect(distance(up.model.forward(ids), up.model.eval().forward(ids))).toBeGreaterThan(0);
  });
});
