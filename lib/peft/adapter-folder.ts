// A LoRA adapter as PEFT's folder: adapter_config.json and adapter_model.safetensors with PEFT's names, both ways.
// Not here: what the config's keys mean (adapter-config.ts), the layers (lora.ts).
import { readdir, readFile } from 'node:fs/promises';
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
import { exists, requireFolderName, writeFileAtomic } from '../io/atomic.js';
import { readSafetensors, type SafetensorsFile, type Writable, writeSafetensors } from '../io/safetensors.js';
import type { Module } from '../nn/index.js';
import { type AdapterConfig, readAdapterConfig, writeAdapterConfig } from './adapter-config.js';
import { LoraLinear, type LoraSettings, loraLayers, loraSettings, refuseSecond, rememberSettings } from './lora.js';
import { isBaseLayer } from './target-modules.js';

const PREFIX = 'base_model.model.';
const KEY = /^base_model\.model\.(.+)\.(lora_[AB])\.weight$/;

/** What {@link saveAdapter} may be told. */
export interface SaveAdapterOptions {
  /** The base model's folder or name, as Python shall find it. Default: the model's `source`. */
  readonly baseModel?: string;
  /** The adapter's whole tensors by the model's names, when the model itself holds only parts of them. */
  readonly tensors?: ReadonlyMap<string, Tensor>;
}

/**
 * Writes the model's adapter for PEFT: `PeftModel.from_pretrained(base, dir)` gives the same model in Python.
 * Throws BAD_ARGUMENT without an adapter, or when one of its tensors is empty or not whole.
 */
export async function saveAdapter(model: Module, dir: string, options: SaveAdapterOptions = {}): Promise<void> {
  requireFolderName('saveAdapter', dir);
  checkOptions('saveAdapter', options, ['baseModel', 'tensors']);
  loraSettings(model); // refuses a model without an adapter
  const layers = loraLayers(model);
  const tensors = new Map<string, Tensor>();
  for (const [name, layer] of layers) {
    const sizes = { lora_A: [layer.rank, layer.lora_A.in], lora_B: [layer.lora_B.out, layer.rank] };
    for (const part of ['lora_A', 'lora_B'] as const) {
      const key = `${name}.${part}.weight`;
      const t = options.tensors === undefined ? layer[part].weight : options.tensors.get(key);
      if (t === undefined || t.numel === 0 || t.shape.join() !== sizes[part].join()) {
        const received =
          t === undefined ? 'none' : t.numel === 0 ? `an empty one [${t.shape.join(', ')}]` : `[${t.shape.join(', ')}]`;
        throw new ShardloopError(
          'BAD_ARGUMENT',
          `saveAdapter: ${key}: expected a whole tensor [${sizes[part].join(', ')}], received ${received}; gather a sharded adapter first`,
        );
      }
      tensors.set(PREFIX + key, t);
    }
  }
  await writeAdapterFile(dir, tensors);
  await describeAdapter(model, dir, options);
}

const writeAdapterFile = (dir: string, tensors: ReadonlyMap<string, Writable>) =>
  writeSafetensors(join(dir, 'adapter_model.safetensors'), tensors, { format: 'pt' });

/**
 * Writes adapter_model.safetensors alone, from whole tensors by the model's names. Throws BAD_ARGUMENT for tensors that
 * belong to no adapter, are empty, or lack their partner.
 */
export async function writeAdapterTensors(dir: string, tensors: ReadonlyMap<string, Writable>): Promise<void> {
  const twin = (name: string) =>
    name.replace(/lora_[AB]\.weight$/, (end) => (end[5] === 'A' ? 'lora_B' : 'lora_A') + end.slice(6));
  for (const [name, { numel }] of tensors) {
    if (numel > 0 && KEY.test(PREFIX + name) && tensors.has(twin(name))) continue;
    throw new ShardloopError(
      'BAD_ARGUMENT',
      `writeAdapterTensors: ${name}: expected pairs of lora_A.weight and lora_B.weight that are not empty`,
    );
  }
  await writeAdapterFile(dir, new Map([...tensors].map(([name, t]) => [PREFIX + name, t])));
}

/** Writes what belongs to the model's adapter but for its tensors: adapter_config.json. Throws BAD_ARGUMENT without an adapter. */
export async function describeAdapter(
  model: Module,
  dir: string,
  { baseModel }: Pick<SaveAdapterOptions, 'baseModel'> = {},
): Promise<void> {
  const base = baseModel ?? (model as { source?: string | null }).source ?? null;
  const config = writeAdapterConfig(loraSettings(model), loraLayers(model), base);
  await writeFileAtomic(join(dir, 'adapter_config.json'), `${JSON.stringify(config, null, 2)}\n`);
}

/** What {@link loadAdapter} may be told. */
export interface LoadAdapterOptions {
  /** dtype of the adapter's tensors. Default: that of the layers that they stand beside. */
  readonly dtype?: DType;
  /** Whether the adapter goes on training. Default false. */
  readonly trainable?: boolean;
}

/**
 * Puts a LoRA adapter that shardloop or PEFT wrote beside the layers of `model`, and freezes the model. Which layers,
 * and their ranks, are what the file holds; it must agree with the config. Returns the settings.
 * Throws BAD_MODEL for an adapter of another kind, an option that is not supported, or tensors that do not fit the
 * model; BAD_SAFETENSORS for a damaged file; BAD_ARGUMENT when the model has an adapter already.
 */
export async function loadAdapter(model: Module, dir: string, options: LoadAdapterOptions = {}): Promise<LoraSettings> {
  requireFolderName('loadAdapter', dir);
  checkOptions('loadAdapter', options, ['dtype', 'trainable']);
  refuseSecond(model);
  const config = await readConfig(dir);
  const path = join(dir, 'adapter_model.safetensors');
  if (!(await exists(path))) {
    const pickle = (await readdir(dir)).find((name) => /\.(bin|pt)$/.test(name));
    const advice = pickle ? `; ${pickle} is a pickle, which is never read: save the adapter again as safetensors` : '';
    throw new ShardloopError('BAD_MODEL', `${dir}: expected adapter_model.safetensors, which is not there${advice}`);
  }
  const file = await readSafetensors(path);
  try {
    const layers = readLayers(model, file, config, options.dtype);
    model.requiresGrad(false);
    for (const [name, layer] of layers) model.setSubmodule(name, layer.requiresGrad(false));
    for (const [, layer] of layers) {
      for (const t of [layer.lora_A.weight, layer.lora_B.weight]) t.requiresGrad = options.trainable ?? false;
    }
  } finally {
    file.close();
  }
  const { rank, alpha, dropout, rsLora, targetModules } = config;
  const settings = { rank, alpha, dropout, rsLora, targetModules };
  rememberSettings(model, settings);
  return settings;
}

async function readConfig(dir: string): Promise<AdapterConfig> {
  const path = join(dir, 'adapter_config.json');
  const text = await readFile(path, 'utf8').catch((cause: NodeJS.ErrnoException) => {
    throw new ShardloopError(
      'BAD_MODEL',
      `${path}: expected an adapter's configuration, it cannot be read (${cause.code})`,
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
  return readAdapterConfig(json as Record<string, unknown>, path);
}

/** The layers of a file, each checked against the model and the config before any is put in. */
function readLayers(
  model: Module,
  file: SafetensorsFile,
  config: AdapterConfig,
  dtype?: DType,
): [string, LoraLinear][] {
  const names = new Set<string>();
  for (const key of file.names) {
    const match = KEY.exec(key);
    if (match !== null) names.add(match[1]!);
    else expectBase(model, file, key);
  }
  if (names.size === 0) throw new ShardloopError('BAD_MODEL', `${file.path}: holds no adapter tensors`);
  const modules = new Map(model.namedModules());
  const made: [string, LoraLinear][] = [];
  try {
    for (const name of names) made.push([name, readLayer(name, modules.get(name), file, config, dtype)]);
  } catch (error) {
    for (const [, layer] of made) layer.release();
    throw error;
  }
  return made;
}

/** PEFT saves the base weight of a head or an embedding that it adapts as well: it must be the one that the model has. */
function expectBase(model: Module, file: SafetensorsFile, key: string): void {
  const name = key.replace(PREFIX, '').replace('.base_layer.', '.');
  const own = key.startsWith(PREFIX) ? model.stateDict().get(name) : undefined;
  if (own === undefined) throw misfit(file, key, `expected ${PREFIX}<layer>.lora_A.weight or lora_B.weight`);
  const { shape } = file.entry(key);
  const same =
    shape.join() === own.shape.join() &&
    noGrad(() => scope(() => ops.equal(ops._to_copy(file.tensor(key), { dtype: own.dtype, device: own.device }), own)));
  if (!same) throw misfit(file, key, `the adapter was made for a base model whose ${name} differs`);
}

function readLayer(
  name: string,
  base: Module | undefined,
  file: SafetensorsFile,
  config: AdapterConfig,
  dtype?: DType,
): LoraLinear {
  const keyA = `${PREFIX}${name}.lora_A.weight`;
  const keyB = `${PREFIX}${name}.lora_B.weight`;
  if (base === undefined || !isBaseLayer(base)) {
    const what = base === undefined ? 'no such layer' : `a ${base.constructor.name} there`;
    throw misfit(file, keyA, `the model has ${what}; the adapter belongs to another model`);
  }
  const rank = config.rankOf(name);
  expectShape(file, keyA, [rank, base.in]);
  expectShape(file, keyB, [base.out, rank]);
  const { dropout, rsLora } = config;
  const layer = new LoraLinear(base, { rank, alpha: config.alphaOf(name), dropout, rsLora, dtype });
  noGrad(() =>
    scope(() => {
      ops.copy_(layer.lora_A.weight, file.tensor(keyA));
      ops.copy_(layer.lora_B.weight, file.tensor(keyB));
    }),
  );
  return layer;
}

function expectShape(file: SafetensorsFile, key: string, shape: number[]): void {
  if (!file.has(key)) throw misfit(file, key, 'this tensor is missing');
  const { dtype, shape: found } = file.entry(key);
  if (found.join() === shape.join() && isFloatingDType(dtype)) return;
  throw misfit(file, key, `expected a floating tensor [${shape.join(', ')}], received ${dtype} [${found.join(', ')}]`);
}

function misfit(file: SafetensorsFile, key: string, what: string): ShardloopError {
  return new ShardloopError('BAD_MODEL', `${file.path}: ${key}: ${what}`);
}
