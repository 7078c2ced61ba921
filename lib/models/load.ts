// A Hugging Face folder to a model and back: config.json, weights in one or many safetensors files, tokenizer. Every
// tensor is accounted for. Not here: names and options of one family (gpt2/hf.ts), the bytes (io/).
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import {
  type DType,
  describe,
  isFloatingDType,
  noGrad,
  ops,
  ShardloopError,
  scope,
  type Tensor,
} from '../core/index.js';
import { checkOptions } from '../core/options.js';
import { loadTokenizer, type Tokenizer } from '../data/tokenizer.js';
import { requireFolderName, writeFileAtomic } from '../io/atomic.js';
import type { TensorSource, Writable } from '../io/safetensors.js';
import { openSafetensorsFolder, writeSafetensorsFolder } from '../io/safetensors-folder.js';
import { isAdapterLayer, type Module } from '../nn/index.js';
import type { GPT2Config } from './gpt2/config.js';
import {
  announcedDType,
  publishedName,
  readGPT2Config,
  withoutTies,
  writeGenerationConfig,
  writeGPT2Config,
} from './gpt2/hf.js';
import { GPT2LMHeadModel } from './gpt2/model.js';
import { gpt2Plan } from './gpt2/plan.js';

/** How {@link loadModel} reads. */
export interface LoadModelOptions {
  /** dtype of the parameters. Default: the checkpoint's. */
  readonly dtype?: DType;
  /** Default 'cpu'; 'meta' checks the files and gives shapes without memory, to be filled later. */
  readonly device?: string;
  /** Whether the tokenizer is read too. Default true. */
  readonly tokenizer?: boolean;
  /**
   * Leave the weights in the mapped file (copy-on-write) instead of copying them: processes on one host then share
   * them. The file must not be overwritten in place while the model lives. Only where no conversion is needed.
   * Default false.
   */
  readonly mapped?: boolean;
}

/** What a model folder holds. */
export interface LoadedModel {
  /** In evaluation mode. */
  readonly model: GPT2LMHeadModel;
  readonly tokenizer: Tokenizer;
  readonly config: GPT2Config;
}

/**
 * Loads a GPT-2-shaped Hugging Face folder, made by shardloop or by Python's transformers, from one or many
 * safetensors files. Throws BAD_MODEL for a folder that is incomplete, another kind of model, or tensors that are
 * missing, unexpected or of another shape (all named); BAD_SAFETENSORS for a damaged file.
 */
export async function loadModel(
  dir: string,
  options: LoadModelOptions & { tokenizer: false },
): Promise<Omit<LoadedModel, 'tokenizer'> & { tokenizer: null }>;
export async function loadModel(dir: string, options?: LoadModelOptions): Promise<LoadedModel>;
export async function loadModel(
  dir: string,
  options: LoadModelOptions = {},
): Promise<Omit<LoadedModel, 'tokenizer'> & { tokenizer: Tokenizer | null }> {
  requireFolderName('loadModel', dir);
  checkOptions('loadModel', options, ['dtype', 'device', 'tokenizer', 'mapped']);
  const path = join(dir, 'config.json');
  const json = await readConfigFile(path);
  const config = readGPT2Config(json, path);
  const tokenizer = options.tokenizer === false ? null : await loadTokenizer(dir);
  const source = await openSafetensorsFolder(dir);
  try {
    const model = buildModel(config, source, announcedDType(json), dir, options);
    return { model, tokenizer, config: model.config };
  } finally {
    source.close();
  }
}

/**
 * A model of a folder's shape on the meta device, from config.json alone: no memory, no weights. Throws BAD_MODEL as
 * {@link loadModel} does.
 */
export async function loadShape(dir: string, options: { dtype?: DType } = {}): Promise<GPT2LMHeadModel> {
  requireFolderName('loadShape', dir);
  const path = join(dir, 'config.json');
  const json = await readConfigFile(path);
  const dtype = options.dtype ?? announcedDType(json) ?? 'float32';
  return new GPT2LMHeadModel(readGPT2Config(json, path), { dtype, device: 'meta' });
}

/** Reads config.json and makes sure that it describes a model of a family that is built here. */
async function readConfigFile(path: string): Promise<Record<string, unknown>> {
  const text = await readFile(path, 'utf8').catch((cause: NodeJS.ErrnoException) => {
    throw new ShardloopError(
      'BAD_MODEL',
      `${path}: expected a model's configuration, it cannot be read (${cause.code})`,
      { cause },
    );
  });
  let json: unknown;
  try {
    json = JSON.parse(text);
  } catch (cause) {
    throw new ShardloopError('BAD_MODEL', `${path}: not valid JSON (${(cause as Error).message})`, { cause });
  }
  if (typeof json !== 'object' || json === null || Array.isArray(json)) {
    throw new ShardloopError('BAD_MODEL', `${path}: expected an object, received ${describe(json)}`);
  }
  const type = (json as { model_type?: unknown }).model_type;
  if (type === 'gpt2') return json as Record<string, unknown>;
  throw new ShardloopError(
    'BAD_MODEL',
    `${path}: expected model_type "gpt2", the family that is supported; received ${describe(type)}`,
  );
}

function buildModel(
  given: GPT2Config,
  source: TensorSource,
  announced: DType | null,
  dir: string,
  options: LoadModelOptions,
): GPT2LMHeadModel {
  const names = publishedNames(source, dir);
  const config = settleTie(given, source, names);
  checkTensors(config, source, names, dir);
  const floating = [...names.values()].map((name) => source.entry(name).dtype);
  const dtype = options.dtype ?? announced ?? floating[0]!;
  if (!isFloatingDType(dtype)) {
    throw new ShardloopError('BAD_ARGUMENT', `loadModel: expected a floating dtype, received ${describe(dtype)}`);
  }
  const { device = 'cpu', mapped = false } = options;
  const model = new GPT2LMHeadModel(config, { dtype, device: 'meta' });
  model.source = dir;
  if (device === 'meta') return model.eval();
  const state = new Map<string, Tensor>();
  try {
    for (const [name, stored] of names) {
      state.set(name, readTensor(source, stored, dtype, device, mapped));
      if (!mapped) source.close(); // Lets go of the pages that were read; the next tensor maps the file again.
    }
    model.loadStateDict(state, { assign: true });
  } catch (error) {
    for (const t of state.values()) t[Symbol.dispose]();
    throw error;
  }
  return model.eval();
}

/** The weights of a folder, one at a time. */
export interface Weights {
  /** Copies the values of a parameter into `into`, whose dtype and device they take. Throws BAD_MODEL for an unknown name. */
  copy(name: string, into: Tensor): void;
  close(): void;
}

/** Opens the weights of a folder that {@link loadModel} loads, by the model's names. */
export async function openWeights(dir: string): Promise<Weights> {
  requireFolderName('openWeights', dir);
  const source = await openSafetensorsFolder(dir);
  const names = publishedNames(source, dir);
  return {
    copy(name, into) {
      const stored = names.get(name) ?? (name === 'transformer.wte.weight' ? names.get('lm_head.weight') : undefined);
      if (stored === undefined) throw new ShardloopError('BAD_MODEL', `${dir}: expected a tensor ${name}, found none`);
      noGrad(() => scope(() => ops.copy_(into, source.tensor(stored))));
      source.close(); // lets go of the pages that were read; the next tensor maps the file again
    },
    close: () => source.close(),
  };
}

function readTensor(source: TensorSource, name: string, dtype: DType, device: string, mapped: boolean): Tensor {
  return noGrad(() =>
    scope(() => {
      const stored = source.tensor(name);
      return mapped && stored.dtype === dtype && device === 'cpu' ? stored : ops._to_copy(stored, { dtype, device });
    }),
  );
}

/** The model's name of every tensor of the files -> the files' name. */
function publishedNames(source: TensorSource, dir: string): Map<string, string> {
  const names = new Map<string, string>();
  for (const stored of source.names) {
    const name = publishedName(stored);
    if (name === null) continue;
    const twin = names.get(name);
    if (twin !== undefined)
      throw new ShardloopError('BAD_MODEL', `${dir}: holds both ${twin} and ${stored}, which are one tensor`);
    names.set(name, stored);
  }
  return names;
}

/** Of a tied head a file may hold either name, or both: when their values differ, the head is not tied after all. */
function settleTie(config: GPT2Config, source: TensorSource, names: Map<string, string>): GPT2Config {
  const head = names.get('lm_head.weight');
  if (!config.tie_word_embeddings || head === undefined) return config;
  const embedding = names.get('transformer.wte.weight');
  if (embedding === undefined) names.set('transformer.wte.weight', head);
  else if (!scope(() => ops.equal(source.tensor(embedding), source.tensor(head)))) {
    return { ...config, tie_word_embeddings: false };
  }
  names.delete('lm_head.weight');
  return config;
}

function checkTensors(config: GPT2Config, source: TensorSource, names: ReadonlyMap<string, string>, dir: string): void {
  const plan = new Map(gpt2Plan(config).map(({ name, shape }) => [name, shape]));
  const problems: string[] = [];
  const missing = [...plan.keys()].filter((name) => !names.has(name));
  const unexpected = [...names].filter(([name]) => !plan.has(name)).map(([, stored]) => stored);
  if (missing.length > 0) problems.push(`missing: ${list(missing)}`);
  if (unexpected.length > 0) problems.push(`unexpected: ${list(unexpected)}`);
  for (const [name, stored] of names) {
    const { shape, dtype } = source.entry(stored);
    const expected = plan.get(name);
    if (expected === undefined) continue;
    if (expected.join() !== shape.join())
      problems.push(`${stored}: expected shape [${expected.join(', ')}], received [${shape.join(', ')}]`);
    if (!isFloatingDType(dtype)) problems.push(`${stored}: expected a floating dtype, received ${dtype}`);
  }
  if (problems.length === 0) return;
  throw new ShardloopError(
    'BAD_MODEL',
    `${dir}: the weights do not fit config.json:\n  ${problems.slice(0, 12).join('\n  ')}`,
  );
}

function list(names: readonly string[]): string {
  const shown = names.slice(0, 8).join(', ');
  return names.length > 8 ? `${shown} and ${names.length - 8} more` : shown;
}

/** How {@link saveModel} writes. */
export interface SaveModelOptions {
  /** Written beside the model. Default: none. */
  readonly tokenizer?: {
    /** Writes the tokenizer's files into a folder. */
    save(dir: string): Promise<void>;
  };
  /** The whole tensors by their published names, when the model itself holds only parts, or in another dtype. */
  readonly stateDict?: ReadonlyMap<string, Writable>;
  /** The largest size of one file, in bytes. Default 5e9. */
  readonly maxShardBytes?: number;
}

/** Writes what belongs to a model but for its weights: config.json, generation_config.json and, if given, the tokenizer. */
export async function describeModel(
  model: GPT2LMHeadModel,
  dir: string,
  options: Pick<SaveModelOptions, 'tokenizer'> & { dtype?: DType } = {},
): Promise<void> {
  const { tokenizer, dtype = model.transformer.wte.weight.dtype } = options;
  await tokenizer?.save(dir);
  await writeJson(join(dir, 'generation_config.json'), writeGenerationConfig(model.config));
  await writeJson(join(dir, 'config.json'), writeGPT2Config(model.config, dtype));
}

/**
 * Writes a folder that Python's transformers loads (`AutoModelForCausalLM.from_pretrained(dir)`): config.json,
 * generation_config.json, the weights and, if given, the tokenizer. A model with a merged adapter is saved as a plain
 * one. Throws BAD_ARGUMENT for an adapter that is not merged, or tensors that are missing, empty or not whole.
 */
export async function saveModel(model: GPT2LMHeadModel, dir: string, options: SaveModelOptions = {}): Promise<void> {
  requireFolderName('saveModel', dir);
  checkOptions('saveModel', options, ['tokenizer', 'stateDict', 'maxShardBytes']);
  const own = adapterTensors(model);
  const state: ReadonlyMap<string, Writable> = options.stateDict ?? model.stateDict();
  const plain = new Map([...withoutTies(state, model.config)].filter(([name]) => !own.has(name)));
  const plan = gpt2Plan(model.config);
  for (const { name, shape } of plan) {
    const t = plain.get(name);
    if (t !== undefined && t.shape.join() === shape.join()) continue;
    const received = t === undefined ? 'none' : `[${t.shape.join(', ')}]`;
    throw new ShardloopError(
      'BAD_ARGUMENT',
      `saveModel: ${name}: expected a whole tensor [${shape.join(', ')}], received ${received}; gather a sharded model first`,
    );
  }
  if (plain.size > plan.length) {
    const planned = new Set(plan.map(({ name }) => name));
    const others = [...plain.keys()].filter((name) => !planned.has(name));
    throw new ShardloopError('BAD_ARGUMENT', `saveModel: ${list(others)} belong to no GPT-2; remove them first`);
  }
  await writeSafetensorsFolder(dir, plain, { maxShardBytes: options.maxShardBytes });
  await describeModel(model, dir, { tokenizer: options.tokenizer, dtype: plain.get('transformer.wte.weight')!.dtype });
}

/** The names of the tensors that merged adapters hold; an adapter that is not merged cannot be saved so. */
function adapterTensors(model: Module): Set<string> {
  const names = new Set<string>();
  for (const [path, module] of model.namedModules()) {
    if (!isAdapterLayer(module)) continue;
    if (!module.merged) {
      throw new ShardloopError(
        'BAD_ARGUMENT',
        `saveModel: ${path} has an adapter that is not merged; merge it first, or save the adapter with saveAdapter`,
      );
    }
    for (const name of module.adapterTensors) names.add(`${path}.${name}`);
  }
  return names;
}

async function writeJson(path: string, value: unknown): Promise<void> {
  await writeFileAtomic(path, `${JSON.stringify(value, null, 2)}\n`);
}
