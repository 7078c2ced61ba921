// Adapter folders: what is saved loads again; what is damaged, foreign or unsupported is refused by name. Exchange with
// Python's peft is in test/oracle/peft.test.ts.
import { mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { call, manualSeed, noGrad, ops, scope, type Tensor, tensor, zeros } from '../../lib/core/index.js';
import { readSafetensors, writeSafetensors } from '../../lib/io/index.js';
import { type GPT2Config, GPT2LMHeadModel, loadModel, saveModel } from '../../lib/models/index.js';
import {
  addLora,
  type LoraOptions,
  loadAdapter,
  loraLayers,
  loraSettings,
  mergeLora,
  saveAdapter,
} from '../../lib/peft/index.js';

let dir: string;
beforeEach(async () => {
  dir = await mkdtemp(join(tmpdir(), 'shardloop-adapter-'));
});
afterEach(() => rm(dir, { recursive: true, force: true }));

const SMALL: Partial<GPT2Config> = { vocab_size: 40, n_positions: 16, n_embd: 24, n_layer: 2, n_head: 3 };
const ids = tensor([[3, 1, 4, 1, 5]], { dtype: 'int64' });
const config = () => join(dir, 'adapter_config.json');
const weights = () => join(dir, 'adapter_model.safetensors');

function base(): GPT2LMHeadModel {
  manualSeed(3);
  return new GPT2LMHeadModel(SMALL).eval();
}

function adapted(options: LoraOptions = {}): GPT2LMHeadModel {
  const model = base();
  addLora(model, options);
  noGrad(() => {
    for (const [, layer] of loraLayers(model)) ops.normal_(layer.lora_B.weight, { std: 0.3 });
  });
  return model;
}

const same = (a: Tensor, b: Tensor) => scope(() => ops.equal(a, b));

async function edit(change: (json: Record<string, unknown>) => void): Promise<void> {
  const json = JSON.parse(await readFile(config(), 'utf8')) as Record<string, unknown>;
  change(json);
  await writeFile(config(), JSON.stringify(json));
}

async function editTensors(change: (tensors: Map<string, Tensor>) => void): Promise<void> {
  const file = await readSafetensors(weights());
  const tensors = new Map(file.names.map((name) => [name, file.tensor(name)]));
  change(tensors);
  await writeSafetensors(weights(), tensors);
  file.close();
}

const failing = () => expect(loadAdapter(base(), dir)).rejects;

describe('a saved adapter', () => {
  it('loads again and computes the same; it trains only when asked', async () => {
    const model = adapted({ rank: 4, alpha: 5, dropout: 0.25, rsLora: true, targetModules: ['c_attn', 'c_fc'] });
    await saveAdapter(model, dir, { baseModel: 'some/base' });
    expect((await readdir(dir)).sort()).toEqual(['adapter_config.json', 'adapter_model.safetensors']);
    const other = base();
    const settings = await loadAdapter(other, dir);
    expect(settings).toEqual({ rank: 4, alpha: 5, dropout: 0.25, rsLora: true, targetModules: ['c_attn', 'c_fc'] });
    expect(settings).toEqual(loraSettings(other));
    expect(same(other.forward(ids), model.forward(ids))).toBe(true);
    expect(other.parameters().some((t) => t.requiresGrad)).toBe(false);
    const third = base();
    await loadAdapter(third, dir, { trainable: true, dtype: 'float64' });
    const trained = third.namedParameters().filter(([, t]) => t.requiresGrad);
    expect(trained.map(([name, t]) => [/lora_[AB]/.test(name), t.dtype])).toEqual(new Array(8).fill([true, 'float64']));
    const json = JSON.parse(await readFile(config(), 'utf8')) as Record<string, unknown>;
    expect(json).toMatchObject({
      peft_type: 'LORA',
      base_model_name_or_path: 'some/base',
      fan_in_fan_out: true,
      task_type: 'CAUSAL_LM',
    });
  });

  it("names its base by the model's source, and a regular expression by the layers that it meant", async () => {
    const folder = join(dir, 'base');
    await saveModel(base(), folder);
    const { model } = await loadModel(folder, { tokenizer: false });
    addLora(model, { targetModules: /.*\.1\.mlp\.c_fc/ });
    await saveAdapter(model, dir);
    const json = JSON.parse(await readFile(config(), 'utf8')) as Record<string, unknown>;
    expect([json.base_model_name_or_path, json.target_modules]).toEqual([folder, ['transformer.h.1.mlp.c_fc']]);
  });

  it('may come from tensors that were gathered elsewhere, but never from empty or partial ones', async () => {
    const model = adapted({ rank: 4 });
    const whole = new Map(
      loraLayers(model).flatMap(([name, layer]) => [
        [`${name}.lora_A.weight`, layer.lora_A.weight] as const,
        [`${name}.lora_B.weight`, ops.mul(layer.lora_B.weight, 2)] as const,
      ]),
    );
    await saveAdapter(model, dir, { tensors: whole });
    const other = base();
    await loadAdapter(other, dir);
    expect(same(loraLayers(other)[0]![1].lora_B.weight, [...whole.values()][1]!)).toBe(true);
    const key = 'transformer.h.0.attn.c_attn.lora_A.weight';
    for (const [t, received] of [
      [zeros([0]), 'an empty one \\[0\\]'],
      [zeros([2, 24]), '\\[2, 24\\]'],
      [undefined, 'none'],
    ] as const) {
      const tensors = new Map(whole);
      if (t === undefined) tensors.delete(key);
      else tensors.set(key, t);
      await expect(saveAdapter(model, dir, { tensors })).rejects.toThrow(
        new RegExp(`${key}: expected a whole tensor \\[4, 24\\], received ${received}`),
      );
    }
  });

  it("is not written from a tensor whose memory was released, as a sharded one is between its segment's turns", async () => {
    const model = adapted();
    call('shardloop::resize_storage_', loraLayers(model)[1]![1].lora_B.weight, 0);
    await expect(saveAdapter(model, dir)).rejects.toThrow(
      /lora_B\.weight": expected \[\d+, \d+\] in memory, received one that was released; .* inside strategy\.whole\(\)/,
    );
    expect(await readdir(dir)).toEqual([]);
  });

  it('can be saved from a merged model, whose weights are saved as a plain model', async () => {
    const model = adapted();
    await expect(saveModel(model, join(dir, 'm'))).rejects.toThrow(/an adapter that is not merged/);
    const logits = model.forward(ids);
    mergeLora(model);
    await saveAdapter(model, dir);
    await saveModel(model, join(dir, 'm'));
    const { model: plain } = await loadModel(join(dir, 'm'), { tokenizer: false });
    expect(same(plain.forward(ids), model.forward(ids))).toBe(true);
    const other = base();
    await loadAdapter(other, dir);
    expect(same(other.forward(ids), logits)).toBe(true);
  });
});

describe('refused by name', () => {
  beforeEach(() => saveAdapter(adapted(), dir));

  it.each([
    ['another kind of adapter', { peft_type: 'IA3' }, /peft_type: expected "LORA".*received "IA3"/],
    ['DoRA', { use_dora: true }, /use_dora = true is not supported/],
    ['trained biases', { bias: 'all' }, /bias = "all" is not supported/],
    ['whole modules', { modules_to_save: ['ln_f'] }, /modules_to_save = an array of 1/],
    ['what is not known', { brand_new_option: { a: 1 } }, /brand_new_option/],
    ['an initialisation that changes the base', { init_lora_weights: 'pissa_niter_4' }, /init_lora_weights/],
    ['a rank that is none', { r: 0 }, /r: expected a positive integer/],
    ['an alpha that is none', { lora_alpha: '8' }, /lora_alpha/],
    ['an alpha beyond float32', { lora_alpha: 1e300 }, /lora_alpha: expected a positive number that float32 can hold/],
    ['a dropout that is none', { lora_dropout: 1.5 }, /lora_dropout/],
    ['rsLora that is no flag', { use_rslora: 'yes' }, /use_rslora/],
    ['a rank pattern that is none', { rank_pattern: { a: 'b' } }, /rank_pattern/],
    ['a rank pattern that is no regular expression', { rank_pattern: { 'c_(': 2 } }, /rank_pattern/],
    ['an alpha pattern that is none', { alpha_pattern: { a: -1 } }, /alpha_pattern/],
    ['no target modules', { target_modules: null }, /target_modules/],
    [
      'a rank that the file does not have',
      { r: 3 },
      /lora_A.weight: expected a floating tensor \[3, 24\], received float32 \[8, 24\]/,
    ],
  ])('%s', async (_, change, message) => {
    await edit((json) => Object.assign(json, change));
    await failing().toThrow(message);
    await failing().toMatchObject({ code: 'BAD_MODEL' });
  });

  it('what is neutral or only says where it came from is taken', async () => {
    const neutral = {
      use_dora: false,
      loftq_config: {},
      eva_config: null,
      megatron_core: 'megatron.core',
      future: null,
      bias: 'none',
    };
    await edit((json) => Object.assign(json, neutral, { init_lora_weights: 'gaussian', inference_mode: false }));
    const model = base();
    await loadAdapter(model, dir);
    expect(loraLayers(model).length).toBe(8);
  });

  it('files that are missing or damaged', async () => {
    await writeFile(weights(), (await readFile(weights())).subarray(0, 100));
    await failing().toMatchObject({ code: 'BAD_SAFETENSORS' });
    await rm(weights());
    await writeFile(join(dir, 'adapter_model.bin'), '');
    await failing().toThrow(/expected adapter_model.safetensors.*adapter_model.bin is a pickle/);
    await writeFile(config(), '{');
    await failing().toThrow(/not valid JSON/);
    await writeFile(config(), '3');
    await failing().toThrow(/expected an object/);
    await rm(config());
    await failing().toThrow(/cannot be read \(ENOENT\)/);
  });

  const key = 'base_model.model.transformer.h.0.attn.c_attn.lora_A.weight';
  it.each([
    [
      'a layer that the model lacks',
      (t) => t.set(key.replace('h.0', 'h.9'), t.get(key)!),
      /the model has no such layer/,
    ],
    [
      'a layer of another kind',
      (t) => t.set('base_model.model.transformer.wte.lora_A.weight', t.get(key)!),
      /a Embedding there/,
    ],
    ['half a layer', (t) => t.delete(key), /c_attn.lora_A.weight: this tensor is missing/],
    [
      'another shape',
      (t) => t.set(key, zeros([8, 25])),
      /expected a floating tensor \[8, 24\], received float32 \[8, 25\]/,
    ],
    ['integers', (t) => t.set(key, zeros([8, 24], { dtype: 'int32' })), /received int32/],
    [
      'other names',
      (t) => t.set('lora_magnitude_vector', zeros([1])),
      /lora_magnitude_vector: expected base_model.model/,
    ],
    [
      'a base weight that differs',
      (t) => t.set('base_model.model.transformer.wte.weight', zeros([40, 24])),
      /made for a base model whose transformer.wte.weight differs/,
    ],
    ['no tensors', (t) => t.clear(), /holds no adapter tensors/],
  ] as [string, (tensors: Map<string, Tensor>) => unknown, RegExp][])('a file with %s', async (_, change, message) => {
    await editTensors(change);
    const model = base();
    await expect(loadAdapter(model, dir)).rejects.toThrow(message);
    expect(loraLayers(model)).toEqual([]);
    expect(model.parameters().every((t) => t.requiresGrad)).toBe(true);
  });

  it('a second adapter, and saving none', async () => {
    await expect(loadAdapter(adapted(), dir)).rejects.toThrow(/has a LoRA adapter already/);
    await expect(saveAdapter(base(), dir)).rejects.toThrow(/has no LoRA adapter/);
  });
});
