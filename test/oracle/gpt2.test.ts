// The GPT-2 here against transformers' GPT-2 with the same weights: logits, loss, every gradient, files, generation.
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { scope, type Tensor, tensor } from '../../lib/core/index.js';
import { type GPT2Config, GPT2LMHeadModel, generate, loadModel, saveModel } from '../../lib/models/index.js';
import { python, relativeError, toHost } from './python.js';

const root = mkdtempSync(join(tmpdir(), 'shardloop-gpt2-'));
afterAll(() => rmSync(root, { recursive: true, force: true }));
let folders = 0;
const folder = () => join(root, String(folders++));

const SMALL = { vocab_size: 61, n_positions: 24, n_embd: 32, n_layer: 3, n_head: 4, bos_token_id: 0, eos_token_id: 0 };
const ids = [
  [5, 9, 13, 2, 44, 60, 7, 7, 1, 30, 21, 3],
  [8, 8, 59, 31, 4, 12, 0, 17, 23, 42, 50, 6],
];
const labels = [
  [-100, -100, 13, 2, 44, 60, 7, 7, 1, 30, 21, 3],
  [8, 8, 59, 31, 4, 12, 0, 17, 23, -100, -100, -100],
];
const int64 = (rows: number[][]) => tensor(rows, { dtype: 'int64' });

/** The worst relative difference of logits, loss and all gradients to Python's. */
function compare(model: GPT2LMHeadModel, theirs: Map<string, Parameters<typeof relativeError>[0]>): [string, number][] {
  const differences: [string, number][] = [];
  scope(() => {
    const note = (name: string, t: Tensor) => differences.push([name, relativeError(toHost(t), theirs.get(name)!)]);
    note('logits', model.forward(int64(ids)));
    const loss = model.loss(int64(ids), int64(labels));
    note('loss', loss);
    loss.backward();
    const named = model.namedParameters();
    expect(named.map(([name]) => `grad.${name}`).sort()).toEqual(
      [...theirs.keys()].filter((k) => k.startsWith('grad.')).sort(),
    );
    for (const [name, p] of named) note(`grad.${name}`, p.grad!);
  });
  return differences;
}

describe('logits, loss and every gradient are those of transformers (1e-5 of the largest value)', () => {
  const configs: [string, Partial<GPT2Config>][] = [
    ['as it is', {}],
    ['an untied head', { tie_word_embeddings: false }],
    ['another n_inner', { n_inner: 40 }],
    ['no scaling', { scale_attn_weights: false }],
    ['scaling by layer', { scale_attn_by_inverse_layer_idx: true }],
    ['scaling by layer alone', { scale_attn_by_inverse_layer_idx: true, scale_attn_weights: false }],
    ['another epsilon', { layer_norm_epsilon: 0.05 }],
    ['upcast attention (no difference in fp32)', { reorder_and_upcast_attn: true }],
    ['one head', { n_head: 1 }],
    ...[
      'gelu',
      'relu',
      'silu',
      'tanh',
      'gelu_pytorch_tanh',
      'gelu_fast',
      'quick_gelu',
      'mish',
      'laplace',
      'relu2',
      'gelu_10',
      'sqrtsoftplus',
      'leaky_relu',
      'relu6',
      'hardswish',
      'sigmoid',
      'linear',
    ].map((name): [string, Partial<GPT2Config>] => [`activation ${name}`, { activation_function: name }]),
  ];
  it.each(configs)('%s', async (_, given) => {
    const dir = folder();
    const config = { ...SMALL, ...given };
    const { tensors } = await python('gpt2', { do: 'make', dir, config, ids, labels });
    const { model, config: loaded } = await loadModel(dir, { tokenizer: false });
    expect(loaded).toMatchObject(config);
    const bad = compare(model, tensors).filter(([, difference]) => !(difference <= 1e-5));
    expect(bad).toEqual([]);
    model.dispose();
  });
});

describe('masks and positions', () => {
  const mask = [
    [1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0],
    [0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1, 1],
  ];
  const positions = [
    [0, 1, 2, 3, 4, 5, 6, 7, 8, 0, 0, 0],
    [0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8],
  ];
  it('padding on either side gives the same logits where there is text', async () => {
    const dir = folder();
    const { tensors } = await python('gpt2', {
      ...{ do: 'make', dir, config: SMALL, ids },
      ...{ attention_mask: mask, position_ids: positions },
    });
    const { model } = await loadModel(dir, { tokenizer: false });
    const options = { attentionMask: int64(mask), positionIds: int64(positions) };
    const logits = model.forward(int64(ids), options);
    const theirs = tensor(new Float32Array(tensors.get('logits')!.data.slice().buffer), { shape: logits.shape });
    const text = tensor(mask).unsqueeze(2);
    expect(relativeError(toHost(logits.mul(text)), toHost(theirs.mul(text)))).toBeLessThanOrEqual(1e-5);
  });
});

describe('half precision', () => {
  it('bf16 logits are those of transformers within the rounding of bf16, upcast attention included', async () => {
    for (const reorder_and_upcast_attn of [false, true]) {
      const dir = folder();
      const config = { ...SMALL, reorder_and_upcast_attn };
      const { tensors } = await python('gpt2', { do: 'make', dir, config, ids, dtype: 'bfloat16', attention: 'eager' });
      const { model } = await loadModel(dir, { tokenizer: false });
      expect(model.transformer.wte.weight.dtype).toBe('bfloat16');
      expect(relativeError(toHost(model.forward(int64(ids))), tensors.get('logits')!)).toBeLessThanOrEqual(2 ** -6);
    }
  });
});

describe('folders', () => {
  it('of transformers load from many files, from a bare GPT2Model, and in another dtype', async () => {
    const many = folder();
    const { value, tensors } = await python<string[]>('gpt2', {
      do: 'make',
      dir: many,
      config: SMALL,
      ids,
      shard: '20KB',
    });
    expect(value.filter((name) => name.endsWith('.safetensors')).length).toBeGreaterThan(2);
    const { model } = await loadModel(many, { tokenizer: false });
    expect(relativeError(toHost(model.forward(int64(ids))), tensors.get('logits')!)).toBeLessThanOrEqual(1e-5);

    const bare = folder();
    const other = await python('gpt2', { do: 'make', dir: bare, config: SMALL, ids, bare: true });
    const { model: second } = await loadModel(bare, { tokenizer: false, mapped: true });
    expect(relativeError(toHost(second.forward(int64(ids))), other.tensors.get('logits')!)).toBeLessThanOrEqual(1e-5);

    const { model: third } = await loadModel(bare, { tokenizer: false, dtype: 'float64' });
    const logits = third.forward(int64(ids));
    expect(logits.dtype).toBe('float64');
    expect(relativeError(toHost(logits), other.tensors.get('logits')!)).toBeLessThanOrEqual(1e-5);
  });

  it('written here load in transformers: tied and untied, one file and many, bf16', async () => {
    for (const [given, options, dtype] of [
      [{}, {}, 'float32'],
      [{ tie_word_embeddings: false, n_inner: 48, activation_function: 'relu' }, { maxShardBytes: 20_000 }, 'float32'],
      [{ scale_attn_by_inverse_layer_idx: true }, {}, 'bfloat16'],
    ] as const) {
      const dir = folder();
      const model = new GPT2LMHeadModel({ ...SMALL, ...given }, { dtype }).eval();
      await saveModel(model, dir, options);
      const { value, tensors } = await python<Record<string, unknown>>('gpt2', { do: 'read', dir, ids });
      expect(value).toMatchObject({ ...SMALL, ...given, model_type: 'gpt2', dtype });
      const bound = dtype === 'float32' ? 1e-5 : 2 ** -6;
      expect(relativeError(toHost(model.forward(int64(ids))), tensors.get('logits')!)).toBeLessThanOrEqual(bound);
    }
  });
});

describe('generation', () => {
  const prompts = [[5, 9, 13], [1], [44, 2, 2, 17, 33, 8]];
  it('at temperature 0 gives the tokens of transformers, one by one and in a batch', async () => {
    const dir = folder();
    await python('gpt2', { do: 'make', dir, config: SMALL, ids, noise: 0.2, seed: 3 });
    const { model } = await loadModel(dir, { tokenizer: false });
    const { value } = await python<number[][]>('gpt2', { do: 'generate', dir, prompts, max_new_tokens: 12 });
    expect(new Set(value.flat()).size).toBeGreaterThan(4);
    for (const [i, prompt] of prompts.entries()) {
      expect(await generate(model, prompt, { maxNewTokens: 12, eos: null })).toEqual(value[i]);
    }
    expect(await generate(model, prompts, { maxNewTokens: 12, eos: null })).toEqual(value);
  });
});
