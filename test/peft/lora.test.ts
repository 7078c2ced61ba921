// LoRA: where it goes, what trains, merging to the bit. That it equals peft is in test/oracle/peft.test.ts.
import { describe, expect, it } from 'vitest';
import {
  autocast,
  type DType,
  manualSeed,
  memory,
  noGrad,
  ops,
  scope,
  type Tensor,
  tensor,
} from '../../lib/core/index.js';
import { type GPT2Config, GPT2LMHeadModel } from '../../lib/models/index.js';
import { segmentParameters } from '../../lib/nn/index.js';
import {
  addLora,
  type LoraLinear,
  type LoraOptions,
  loraLayers,
  loraSettings,
  mergeLora,
  removeLora,
  unmergeLora,
} from '../../lib/peft/index.js';

const SMALL: Partial<GPT2Config> = { vocab_size: 40, n_positions: 16, n_embd: 24, n_layer: 2, n_head: 3 };
const ids = tensor([[3, 1, 4, 1, 5, 9, 2, 6]], { dtype: 'int64' });
const bits = (t: Tensor) => Buffer.from((t.dataSync({ bits: true }) as Uint8Array).buffer).toString('hex');

function make(
  options: LoraOptions | null = {},
  given: Partial<GPT2Config> = {},
  dtype: DType = 'float32',
): GPT2LMHeadModel {
  manualSeed(2);
  const model = new GPT2LMHeadModel({ ...SMALL, ...given }, { dtype }).eval();
  if (options !== null) addLora(model, options);
  return model;
}

/** Gives the adapter something to add. */
function stir(model: GPT2LMHeadModel): GPT2LMHeadModel {
  noGrad(() => {
    for (const [, layer] of loraLayers(model)) ops.normal_(layer.lora_B.weight, { std: 0.3 });
  });
  return model;
}

function distance(a: Tensor, b: Tensor): number {
  return scope(() => ops.max(ops.abs(ops.sub(a, b))).itemSync() as number);
}

describe('memory', () => {
  it('training, merging and removing leave no tensor behind', () => {
    const model = make(null);
    const bare = memory.stats().handles;
    addLora(model, { dropout: 0.1 });
    const before = memory.stats().handles;
    const step = () => {
      scope(() => model.loss(ids, ids).backward());
      model.zeroGrad();
    };
    model.train();
    for (let i = 0; i < 3; i++) step();
    expect(memory.stats().handles).toBe(before);
    mergeLora(model);
    unmergeLora(model);
    expect(memory.stats().handles).toBe(before);
    mergeLora(model);
    removeLora(model);
    expect(memory.stats().handles).toBe(bare);
  });
});

describe('a fresh adapter', () => {
  it('changes nothing, and is all that trains', () => {
    const plain = make(null);
    const model = make();
    expect(distance(model.forward(ids), plain.forward(ids))).toBe(0);
    const trained = model
      .namedParameters()
      .filter(([, t]) => t.requiresGrad)
      .map(([name]) => name);
    expect(trained.length).toBe(2 * 4 * 2);
    expect(trained.every((name) => /\.lora_[AB]\.weight$/.test(name))).toBe(true);
    model.loss(ids, ids).backward();
    for (const [name, t] of model.namedParameters()) expect([name, t.grad !== null]).toEqual([name, t.requiresGrad]);
  });

  it('starts with A uniform in 1 / sqrt(in) and B at zero', () => {
    const layer = make({ rank: 16 }, { n_embd: 240 }).transformer.h[0]!.attn.c_attn as LoraLinear;
    const largest = ops.max(ops.abs(layer.lora_A.weight)).itemSync() as number;
    expect(largest).toBeLessThanOrEqual(1 / Math.sqrt(240));
    expect(largest).toBeGreaterThan(0.95 / Math.sqrt(240));
    expect(ops.any(layer.lora_B.weight).itemSync()).toBe(false);
    expect([layer.lora_A.weight.shape, layer.lora_B.weight.shape]).toEqual([
      [16, 240],
      [720, 16],
    ]);
  });

  it('leaves the names, the tensors and the segments of the base', () => {
    const model = make(null);
    const base = model.stateDict();
    addLora(model);
    for (const [name, t] of base) expect(model.stateDict().get(name)).toBe(t);
    const inSegments = new Set(model.segments().flatMap((part) => segmentParameters(part)));
    expect(inSegments).toEqual(new Set(model.parameters()));
    stir(model);
    let carry = model.inputs(ids);
    for (const part of model.segments()) carry = part.forward(carry);
    expect(distance(carry[0]!, model.forward(ids))).toBe(0);
  });

  it('takes the mode of the model, and its dropout acts in training alone', () => {
    const model = stir(make({ dropout: 0.5 }, { resid_pdrop: 0, embd_pdrop: 0, attn_pdrop: 0 }));
    expect(loraLayers(model).every(([, layer]) => !layer.training && !layer.lora_dropout.training)).toBe(true);
    const still = model.forward(ids);
    expect(distance(model.forward(ids), still)).toBe(0);
    expect(distance(model.train().forward(ids), still)).toBeGreaterThan(1e-3);
  });

  it('counts alpha / rank times, with rsLora alpha / sqrt(rank)', () => {
    const layer = (options: LoraOptions) => loraLayers(stir(make({ targetModules: 'c_attn', ...options })))[0]![1];
    const added = (l: LoraLinear) => {
      const x = ops.ones([1, 24]);
      const base = ops.linear(x, ops.t(l.weight), { bias: l.bias });
      const detour = ops.linear(ops.linear(x, l.lora_A.weight), l.lora_B.weight);
      return [ops.sub(l.forward(x), base), detour] as const;
    };
    for (const [options, factor] of [
      [{ rank: 4, alpha: 8 }, 2],
      [{ rank: 4, alpha: 8, rsLora: true }, 4],
    ] as const) {
      const [difference, detour] = added(layer(options));
      expect(distance(difference, ops.mul(detour, factor))).toBeLessThan(1e-5);
    }
  });

  it("is in the base's dtype or the one asked for; the layer's output stays in the base's", () => {
    expect(
      make({}, {}, 'bfloat16')
        .parameters()
        .every((t) => t.dtype === 'bfloat16'),
    ).toBe(true);
    const mixed = stir(make({ dtype: 'float32' }, {}, 'bfloat16'));
    expect(new Set(loraLayers(mixed).map(([, layer]) => layer.lora_A.weight.dtype))).toEqual(new Set(['float32']));
    expect(mixed.forward(ids).dtype).toBe('bfloat16');
    const cast = autocast({ dtype: 'bfloat16' }, () => stir(make()).forward(ids));
    expect(distance(cast, stir(make()).forward(ids))).toBeLessThan(0.1);
  });
});

describe('target modules', () => {
  const names = (targetModules: LoraOptions['targetModules'], given: Partial<GPT2Config> = {}) =>
    loraLayers(make({ targetModules }, given)).map(([name]) => name.replace('transformer.h.', ''));

  it.each([
    [
      'all-linear',
      [
        '0.attn.c_attn',
        '0.attn.c_proj',
        '0.mlp.c_fc',
        '0.mlp.c_proj',
        '1.attn.c_attn',
        '1.attn.c_proj',
        '1.mlp.c_fc',
        '1.mlp.c_proj',
      ],
    ],
    [['c_attn'], ['0.attn.c_attn', '1.attn.c_attn']],
    ['c_attn,mlp.c_fc', ['0.attn.c_attn', '1.attn.c_attn', '0.mlp.c_fc', '1.mlp.c_fc']],
    [['transformer.h.1.mlp.c_proj'], ['1.mlp.c_proj']],
    [/.*\.0\..*c_(fc|attn)/, ['0.attn.c_attn', '0.mlp.c_fc']],
    ['.*\\.0\\..*c_(?P<part>fc|attn)', ['0.attn.c_attn', '0.mlp.c_fc']],
    [['lm_head'], ['lm_head']],
  ] as [LoraOptions['targetModules'], string[]][])('%s', (target, expected) => {
    expect(names(target).sort()).toEqual([...expected].sort());
  });

  it('all-linear leaves the head out, tied or not', () => {
    expect(names('all-linear', { tie_word_embeddings: false })).not.toContain('lm_head');
    expect(names('ALL-linear').length).toBe(8);
  });

  it.each([
    [['q_proj'], /"q_proj" matches no layer of GPT2LMHeadModel; it has layers such as attn.c_attn/],
    [['c_attn', 'attn'], /"attn" matches transformer.h.0.attn, a GPT2Attention/],
    [['wte'], /a Embedding; LoRA goes to Linear and Conv1D only/],
    [/c_attn/, /\/\^\(\?:c_attn\)\$\/ matches no layer/],
    ['c_(attn', /no regular expression/],
    [[], /expected names of layers/],
    [7 as unknown as string, /expected 'all-linear', names, or a regular expression; received 7/],
  ] as [LoraOptions['targetModules'], RegExp][])('refuses %s', (target, message) => {
    const model = make(null);
    expect(() => addLora(model, { targetModules: target })).toThrow(message);
    expect(loraLayers(model)).toEqual([]);
    expect(model.parameters().every((t) => t.requiresGrad)).toBe(true);
  });
});

describe('merging', () => {
  it.each(['float32', 'bfloat16'] as const)(
    'computes the same in %s, and unmerging gives the very bits back',
    (dtype) => {
      const model = stir(make({}, {}, dtype));
      const before = [...model.stateDict()].map(([name, t]) => [name, bits(t)]);
      const logits = model.forward(ids);
      mergeLora(model);
      mergeLora(model);
      expect(loraLayers(model).every(([, layer]) => layer.merged)).toBe(true);
      expect(distance(model.forward(ids), logits)).toBeLessThan(dtype === 'float32' ? 1e-4 : 0.2);
      expect([...model.stateDict()].map(([name, t]) => [name, bits(t)])).not.toEqual(before);
      unmergeLora(model);
      unmergeLora(model);
      expect([...model.stateDict()].map(([name, t]) => [name, bits(t)])).toEqual(before);
      expect(distance(model.forward(ids), logits)).toBe(0);
    },
  );

  it('leaves nothing to train, and backward says so', () => {
    const model = stir(make());
    const backward = () => ops.sum(model.forward(ids)).backward();
    mergeLora(model);
    expect(backward).toThrow(/root 0 does not require grad: .*a merged LoRA adapter .* until unmergeLora\(model\)/);
    unmergeLora(model);
    backward();
    expect(loraLayers(model)[0]![1].lora_A.weight.grad).not.toBeNull();
  });

  it('refuses a weight that is tied to another', () => {
    const model = stir(make({ targetModules: ['lm_head'] }));
    expect(() => mergeLora(model)).toThrow(/lm_head.weight is tied to transformer.wte.weight/);
    mergeLora(stir(make({ targetModules: ['lm_head'] }, { tie_word_embeddings: false })));
  });
});

describe('removing', () => {
  it('puts plain layers back, with or without what was learned', () => {
    const plain = make(null);
    const model = stir(make());
    removeLora(model);
    expect(distance(model.forward(ids), plain.forward(ids))).toBe(0);
    expect([...model.stateDict().keys()]).toEqual([...plain.stateDict().keys()]);
    const second = stir(make());
    const logits = second.forward(ids);
    mergeLora(second);
    removeLora(second);
    expect(distance(second.forward(ids), logits)).toBeLessThan(1e-4);
    expect(loraLayers(second)).toEqual([]);
    addLora(second, { rank: 2 });
    expect(loraSettings(second).rank).toBe(2);
  });
});

describe('refused', () => {
  it.each([
    [{ rank: 0 }, /rank: expected a positive integer, received 0/],
    [{ rank: 1.5 }, /rank/],
    [{ alpha: 0 }, /alpha: expected a positive number/],
    [{ alpha: Number.NaN }, /alpha/],
    [
      { alpha: 1e300 },
      /alpha: expected one whose scale alpha \/ rank float32 can hold, not 1.25e\+299, received 1e\+300/,
    ],
    [{ alpha: 1e-50 }, /alpha: expected one whose scale/],
    [{ dropout: 1 }, /dropout: expected a number in \[0, 1\)/],
    [{ target_modules: 'x' } as LoraOptions, /unknown option 'target_modules'; did you mean 'targetModules'/],
    [{ rnk: 4 } as LoraOptions, /unknown option 'rnk'; did you mean 'rank'/],
    [{ rank: 1e6 }, /rank: expected at most \d+, the smaller side of .*, received 1000000/],
  ])('%o', (options, message) => {
    expect(() => make(options)).toThrow(message);
  });

  it('a second adapter, and merging, unmerging or removing none', () => {
    expect(() => addLora(make())).toThrow(/has a LoRA adapter already \(transformer.h.0.attn.c_attn\)/);
    for (const run of [mergeLora, unmergeLora, removeLora])
      expect(() => run(make(null))).toThrow(/has no LoRA adapter/);
  });
});
