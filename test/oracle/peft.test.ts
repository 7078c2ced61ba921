// Adapters between here and peft, both ways: the same names, and the same logits (1e-4).
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { noGrad, ops, tensor } from '../../lib/core/index.js';
import { readSafetensors } from '../../lib/io/index.js';
import { type GPT2Config, GPT2LMHeadModel, loadModel, saveModel } from '../../lib/models/index.js';
import { addLora, type LoraOptions, loadAdapter, loraLayers, mergeLora, saveAdapter } from '../../lib/peft/index.js';
import { python, relativeError, toHost } from './python.js';

const root = mkdtempSync(join(tmpdir(), 'shardloop-peft-'));
afterAll(() => rmSync(root, { recursive: true, force: true }));
const CONFIG: Partial<GPT2Config> = { vocab_size: 61, n_positions: 24, n_embd: 32, n_layer: 2, n_head: 4 };
const tied = join(root, 'tied');
const untied = join(root, 'untied');
const ids = [[5, 9, 13, 2, 44, 60, 7, 7, 1, 30, 21, 3]];
const input = () => tensor(ids, { dtype: 'int64' });

interface Answer {
  trained: string[];
  config: Record<string, unknown>;
}

beforeAll(async () => {
  await saveModel(new GPT2LMHeadModel(CONFIG), tied);
  await saveModel(new GPT2LMHeadModel({ ...CONFIG, tie_word_embeddings: false }), untied);
});

describe('an adapter saved here gives the same logits in peft', () => {
  const cases: [string, LoraOptions, string][] = [
    ['all linear layers', { rank: 4, alpha: 8 }, tied],
    ['by name', { rank: 2, alpha: 6, targetModules: ['c_attn', 'mlp.c_proj'] }, tied],
    ['by regular expression', { rank: 3, alpha: 3, targetModules: /.*h\.\d+\.mlp\.c_.*/ }, tied],
    ['the rank-stabilised scaling', { rank: 4, alpha: 5, rsLora: true }, tied],
    ['an untied head', { rank: 4, targetModules: ['lm_head', 'c_attn'], dropout: 0.1 }, untied],
  ];
  it.each(cases)('%s', async (_, options, base) => {
    const { model } = await loadModel(base, { tokenizer: false });
    addLora(model, options);
    noGrad(() => {
      for (const [, layer] of loraLayers(model)) ops.normal_(layer.lora_B.weight, { std: 0.2 });
    });
    const dir = join(root, `ours-${_}`);
    await saveAdapter(model, dir);
    const { value, tensors } = await python<Answer>('peft_adapters', { do: 'load', base, dir, ids });
    const names = (await readSafetensors(join(dir, 'adapter_model.safetensors'))).names;
    expect(value.trained.map((name) => name.replace('.default', '')).sort()).toEqual([...names].sort());
    expect(value.config.base_model_name_or_path).toBe(base);
    expect(relativeError(toHost(model.forward(input())), tensors.get('logits')!)).toBeLessThanOrEqual(1e-4);
    model.dispose();
  });
});

describe('an adapter made by peft loads here', () => {
  const cases: [string, object, string][] = [
    ['all-linear', { r: 4, lora_alpha: 8, target_modules: 'all-linear' }, tied],
    ['the default targets', { r: 2, lora_alpha: 16, fan_in_fan_out: true }, tied],
    ['a regular expression', { r: 3, lora_alpha: 4, target_modules: '.*\\.mlp\\.c_(?P<which>fc|proj)' }, tied],
    ['one layer of two', { r: 3, lora_alpha: 4, target_modules: ['c_attn'], layers_to_transform: [1] }, tied],
    ['excluded layers', { r: 3, target_modules: 'all-linear', exclude_modules: ['mlp.c_proj'] }, tied],
    [
      'rank and alpha patterns',
      {
        r: 4,
        target_modules: ['c_attn', 'c_proj'],
        rank_pattern: { 'attn.c_proj': 2 },
        alpha_pattern: { '.*1.attn.c_attn': 32 },
      },
      tied,
    ],
    ['rank-stabilised scaling', { r: 4, lora_alpha: 8, use_rslora: true, target_modules: ['c_fc'] }, tied],
    ['a Linear head', { r: 4, target_modules: ['lm_head'], init_lora_weights: 'gaussian' }, untied],
  ];
  it.each(cases)('%s', async (_, lora, base) => {
    const dir = join(root, `theirs-${_}`);
    const { value, tensors } = await python<Answer>('peft_adapters', { do: 'make', base, dir, ids, lora });
    const { model } = await loadModel(base, { tokenizer: false });
    await loadAdapter(model, dir, { trainable: true });
    const trained = model.namedParameters().filter(([, p]) => p.requiresGrad);
    expect(trained.length).toBe(value.trained.length);
    const theirs = tensors.get('logits')!;
    expect(relativeError(toHost(model.forward(input())), theirs)).toBeLessThanOrEqual(1e-4);

    const again = join(root, `again-${_}`);
    await saveAdapter(model, again);
    const second = await python<Answer>('peft_adapters', { do: 'load', base, dir: again, ids });
    expect(relativeError(second.tensors.get('logits')!, theirs)).toBeLessThanOrEqual(1e-4);

    mergeLora(model);
    expect(relativeError(toHost(model.forward(input())), theirs)).toBeLessThanOrEqual(1e-4);
    model.dispose();
  });

  it.each([
    ['use_dora', { r: 2, target_modules: ['c_attn'], use_dora: true }],
    ['bias', { r: 2, target_modules: ['c_attn'], bias: 'lora_only' }],
    ['modules_to_save', { r: 2, target_modules: ['c_attn'], modules_to_save: ['ln_f'] }],
    ['trainable_token_indices', { r: 2, target_modules: ['c_attn'], trainable_token_indices: [1] }],
    ['lora_bias', { r: 2, target_modules: ['lm_head'], lora_bias: true }],
    ['init_lora_weights', { r: 2, target_modules: ['lm_head'], init_lora_weights: 'pissa' }],
  ])('%s is refused by name', async (key, lora) => {
    const dir = join(root, `refused-${key}`);
    await python<Answer>('peft_adapters', { do: 'make', base: untied, dir, ids, lora });
    const { model } = await loadModel(untied, { tokenizer: false });
    await expect(loadAdapter(model, dir)).rejects.toThrow(key);
    expect(loraLayers(model)).toEqual([]);
  });
});
