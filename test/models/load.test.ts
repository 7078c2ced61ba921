// Model folders: what is saved loads again, and what is incomplete or foreign is refused by name. Folders of Python's
// transformers are in test/oracle/gpt2.test.ts.
import { mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { memory, ops, type Tensor, tensor, zeros } from '../../lib/core/index.js';
import { byteTokenizer } from '../../lib/data/tokenizer.js';
import { readSafetensors, writeSafetensors } from '../../lib/io/index.js';
import { type GPT2Config, GPT2LMHeadModel, loadModel, saveModel } from '../../lib/models/index.js';
import { loadAdapter, saveAdapter } from '../../lib/peft/index.js';

let dir: string;
beforeEach(async () => {
  dir = await mkdtemp(join(tmpdir(), 'shardloop-load-'));
});
afterEach(() => rm(dir, { recursive: true, force: true }));

const SMALL: Partial<GPT2Config> = {
  vocab_size: 258,
  n_positions: 16,
  n_embd: 16,
  n_layer: 2,
  n_head: 2,
  eos_token_id: 256,
};
const bits = (t: Tensor) => Buffer.from((t.dataSync({ bits: true }) as Uint8Array).buffer).toString('hex');
const weightsOf = (model: GPT2LMHeadModel) => [...model.stateDict()].map(([name, t]) => [name, t.dtype, bits(t)]);
const ids = tensor([[1, 2, 3, 4]], { dtype: 'int64' });

/** Changes one of the JSON files of the folder. */
async function edit(name: string, change: (json: Record<string, unknown>) => void): Promise<void> {
  const json = JSON.parse(await readFile(join(dir, name), 'utf8')) as Record<string, unknown>;
  change(json);
  await writeFile(join(dir, name), JSON.stringify(json));
}

/** Changes the tensors of the folder's one file. */
async function editTensors(change: (tensors: Map<string, Tensor>) => void): Promise<void> {
  const path = join(dir, 'model.safetensors');
  const file = await readSafetensors(path);
  const tensors = new Map(file.names.map((name) => [name, file.tensor(name)]));
  change(tensors);
  await writeSafetensors(path, tensors);
  file.close();
}

describe('a saved model', () => {
  it('loads again to the bit, in evaluation mode, with its tokenizer, and leaks nothing', async () => {
    const tokenizer = byteTokenizer();
    const model = new GPT2LMHeadModel(SMALL);
    const before = memory.stats().handles;
    await saveModel(model, dir, { tokenizer });
    expect(memory.stats().handles).toBe(before);
    const loaded = await loadModel(dir);
    expect(memory.stats().handles).toBe(before + loaded.model.parameters().length);
    expect(weightsOf(loaded.model)).toEqual(weightsOf(model));
    expect(loaded.model.training).toBe(false);
    expect(loaded.model.parameters().every((t) => t.requiresGrad)).toBe(true);
    expect(loaded.model.source).toBe(dir);
    expect(loaded.config).toEqual(model.config);
    expect(loaded.tokenizer.encode('hé')).toEqual(tokenizer.encode('hé'));
    expect((await readdir(dir)).filter((name) => /safetensors|config/.test(name)).sort()).toEqual([
      ...['config.json', 'generation_config.json', 'model.safetensors', 'tokenizer_config.json'],
    ]);
    const file = await readSafetensors(join(dir, 'model.safetensors'));
    expect(file.metadata).toEqual({ format: 'pt' });
    expect(file.has('lm_head.weight')).toBe(false);
  });

  it('keeps its dtype unless told otherwise', async () => {
    await saveModel(new GPT2LMHeadModel(SMALL, { dtype: 'bfloat16' }), dir);
    const dtypes = async (options: object) => {
      const { model } = await loadModel(dir, { tokenizer: false, ...options });
      return [...new Set(model.parameters().map((t) => t.dtype))];
    };
    expect(await dtypes({})).toEqual(['bfloat16']);
    expect(await dtypes({ dtype: 'float32' })).toEqual(['float32']);
    await edit('config.json', (json) => {
      json.dtype = undefined;
      json.torch_dtype = 'torch.float16';
    });
    expect(await dtypes({})).toEqual(['float16']);
    await edit('config.json', (json) => {
      json.torch_dtype = undefined;
    });
    expect(await dtypes({ mapped: true })).toEqual(['bfloat16']);
    await expect(dtypes({ dtype: 'int64' })).rejects.toThrow(/floating dtype/);
    await expect(dtypes({ device: 'nowhere' })).rejects.toThrow();
  });

  it('can be saved into its own folder while it is mapped from there', async () => {
    const model = new GPT2LMHeadModel({ ...SMALL, tie_word_embeddings: false });
    await saveModel(model, dir);
    const { model: mapped } = await loadModel(dir, { tokenizer: false, mapped: true });
    await saveModel(mapped, dir, { maxShardBytes: 10_000 });
    const { model: again } = await loadModel(dir, { tokenizer: false });
    expect(weightsOf(again)).toEqual(weightsOf(model));
  });

  it('may come from a state dict that was gathered elsewhere, but not from parts', async () => {
    const model = new GPT2LMHeadModel(SMALL);
    const halves = new Map([...model.stateDict()].map(([name, t]) => [name, ops._to_copy(t, { dtype: 'bfloat16' })]));
    await saveModel(model, dir, { stateDict: halves });
    const { model: loaded } = await loadModel(dir, { tokenizer: false });
    expect(loaded.transformer.wte.weight.dtype).toBe('bfloat16');

    const wpe = 'transformer.wpe.weight';
    await expect(saveModel(model, dir, { stateDict: new Map([...halves, [wpe, zeros([0])]]) })).rejects.toThrow(
      /transformer.wpe.weight: expected a whole tensor \[16, 16\], received \[0\]/,
    );
    const without = new Map([...halves].filter(([name]) => name !== wpe));
    await expect(saveModel(model, dir, { stateDict: without })).rejects.toThrow(/received none/);
    await expect(saveModel(model, dir, { stateDict: new Map([...halves, ['x', zeros([1])]]) })).rejects.toThrow(
      /x belong to no GPT-2/,
    );
  });
});

describe('a tied head', () => {
  beforeEach(() => saveModel(new GPT2LMHeadModel(SMALL), dir));

  it('may stand in the file under either name, or under both', async () => {
    const { model: plain } = await loadModel(dir, { tokenizer: false });
    await editTensors((tensors) => tensors.set('lm_head.weight', tensors.get('transformer.wte.weight')!));
    const { model: both } = await loadModel(dir, { tokenizer: false });
    expect(weightsOf(both)).toEqual(weightsOf(plain));
    await editTensors((tensors) => tensors.delete('transformer.wte.weight'));
    const { model: head } = await loadModel(dir, { tokenizer: false });
    expect(weightsOf(head)).toEqual(weightsOf(plain));
    expect(head.transformer.wte.weight).toBe((head.lm_head as unknown as { weight: Tensor }).weight);
  });

  it('whose two names differ in value is not tied', async () => {
    await editTensors((tensors) => tensors.set('lm_head.weight', zeros([258, 16])));
    const { model, config } = await loadModel(dir, { tokenizer: false });
    expect(config.tie_word_embeddings).toBe(false);
    expect(ops.sum(ops.abs(model.forward(ids))).itemSync()).toBe(0);
  });
});

describe('refused by name', () => {
  beforeEach(() => saveModel(new GPT2LMHeadModel(SMALL), dir));
  const failing = (options: object = {}) => expect(loadModel(dir, { tokenizer: false, ...options })).rejects;

  it('what is no path', async () => {
    const refused = { code: 'BAD_ARGUMENT', message: expect.stringContaining('expected the path of a folder') };
    for (const dir of [undefined, 5, null, '']) {
      await expect(loadModel(dir as string), String(dir)).rejects.toMatchObject(refused);
      await expect(saveModel({} as GPT2LMHeadModel, dir as string)).rejects.toMatchObject(refused);
      await expect(saveAdapter({} as GPT2LMHeadModel, dir as string)).rejects.toMatchObject(refused);
      await expect(loadAdapter({} as GPT2LMHeadModel, dir as string)).rejects.toMatchObject(refused);
    }
  });

  it('a folder without config.json, or with another one', async () => {
    await writeFile(join(dir, 'config.json'), '{');
    await failing().toMatchObject({ code: 'BAD_MODEL', message: expect.stringContaining('not valid JSON') });
    await writeFile(join(dir, 'config.json'), '[]');
    await failing().toThrow(/expected an object/);
    await writeFile(join(dir, 'config.json'), '{"model_type":"llama"}');
    await failing().toThrow(/expected model_type "gpt2".*received "llama"/);
    await rm(join(dir, 'config.json'));
    await failing().toThrow(/config.json: expected a model's configuration, it cannot be read \(ENOENT\)/);
  });

  it('a folder without tokenizer, unless none is asked for', async () => {
    await failing({ tokenizer: true }).toMatchObject({ code: 'BAD_MODEL' });
    expect((await loadModel(dir, { tokenizer: false })).tokenizer).toBeNull();
  });

  it('weights that are missing, unexpected, twice, or of another shape or kind', async () => {
    await editTensors((tensors) => {
      tensors.set('h.0.extra', tensors.get('transformer.h.0.ln_1.bias')!);
      tensors.delete('transformer.h.1.ln_1.bias');
      tensors.set('transformer.ln_f.weight', zeros([3]));
      tensors.set('transformer.ln_f.bias', zeros([16], { dtype: 'int32' }));
      tensors.set('h.0.attn.bias', zeros([1, 1, 16, 16]));
      tensors.set('transformer.h.1.attn.masked_bias', zeros([]));
    });
    const failure = loadModel(dir, { tokenizer: false });
    for (const message of [
      /missing: transformer\.h\.1\.ln_1\.bias$/m,
      /unexpected: h\.0\.extra$/m,
      /transformer\.ln_f\.weight: expected shape \[16\], received \[3\]/,
      /transformer\.ln_f\.bias: expected a floating dtype, received int32/,
    ]) {
      await expect(failure).rejects.toThrow(message);
    }
    await editTensors((tensors) => tensors.set('wpe.weight', tensors.get('transformer.wpe.weight')!));
    await failing().toThrow(/holds both .*wpe.weight and .*wpe.weight, which are one tensor/);
  });

  it('an untied head that the file lacks', async () => {
    await edit('config.json', (json) => {
      json.tie_word_embeddings = false;
    });
    await failing().toThrow(/missing: lm_head.weight/);
  });

  it('a damaged file', async () => {
    const path = join(dir, 'model.safetensors');
    await writeFile(path, (await readFile(path)).subarray(0, 3000));
    await failing().toMatchObject({ code: 'BAD_SAFETENSORS' });
  });
});
