// adapter_config.json, as PEFT writes and reads it: what of it is honoured, and what is refused by name because the
// model would compute something else. Not here: the tensors (adapter-folder.ts).
import { describe, ShardloopError } from '../core/index.js';
import { isFactor, type LoraLinear, type LoraSettings } from './lora.js';
import { type TargetModules, targetNames, wholeMatch } from './target-modules.js';

/** What an adapter_config.json says about the adapter. */
export interface AdapterConfig {
  readonly rank: number;
  readonly alpha: number;
  readonly dropout: number;
  readonly rsLora: boolean;
  readonly targetModules: TargetModules;
  /** The rank of one layer, patterns applied. */
  rankOf(layer: string): number;
  /** The alpha of one layer, patterns applied. */
  alphaOf(layer: string): number;
}

const READ = [
  'peft_type',
  'r',
  'lora_alpha',
  'lora_dropout',
  'use_rslora',
  'target_modules',
  'rank_pattern',
  'alpha_pattern',
  'init_lora_weights',
];

/** Keys that say nothing about what the loaded adapter computes: where it came from, and how its layers were chosen. */
const HARMLESS = new Set([
  ...['auto_mapping', 'base_model_name_or_path', 'revision', 'peft_version', 'task_type', 'inference_mode'],
  ...[
    'fan_in_fan_out',
    'exclude_modules',
    'layers_to_transform',
    'layers_pattern',
    'megatron_core',
    'qalora_group_size',
  ],
  ...['runtime_config', 'eva_config'],
]);

/** Ways of initialisation that leave the base weights alone; the others change them, and the adapter fits only the changed ones. */
const INITS = ['gaussian', 'eva', 'orthogonal'];

/**
 * Reads a parsed adapter_config.json. Throws BAD_MODEL, naming `where` and the key, for what is malformed, and for
 * every option that shardloop does not have (DoRA, trained biases, whole modules, and whatever is unknown and set).
 */
export function readAdapterConfig(json: Readonly<Record<string, unknown>>, where: string): AdapterConfig {
  const wrong = (key: string, expected: string) =>
    new ShardloopError('BAD_MODEL', `${where}: ${key}: expected ${expected}, received ${describe(json[key])}`);
  if (json.peft_type !== 'LORA') throw wrong('peft_type', '"LORA", the only kind of adapter that is supported');
  for (const [key, value] of Object.entries(json)) {
    if (READ.includes(key) || HARMLESS.has(key) || isUnset(key, value)) continue;
    throw new ShardloopError(
      'BAD_MODEL',
      `${where}: ${key} = ${describe(value)} is not supported; only plain LoRA can be loaded`,
    );
  }
  const init = json.init_lora_weights ?? true;
  if (typeof init !== 'boolean' && !INITS.includes(init as string)) {
    throw wrong('init_lora_weights', `true, false or one of ${INITS.join(', ')} (others change the base weights)`);
  }
  const { r = 8, lora_alpha: alpha = 8, lora_dropout: dropout = 0, use_rslora: rsLora = false } = json;
  if (!Number.isSafeInteger(r) || (r as number) < 1) throw wrong('r', 'a positive integer');
  if (!isFactor(alpha)) throw wrong('lora_alpha', 'a positive number that float32 can hold');
  if (!(typeof dropout === 'number' && dropout >= 0 && dropout < 1)) throw wrong('lora_dropout', 'a number in [0, 1)');
  if (typeof rsLora !== 'boolean') throw wrong('use_rslora', 'true or false');
  const ranks = readPattern(json.rank_pattern, (value) => Number.isSafeInteger(value) && (value as number) > 0);
  const alphas = readPattern(json.alpha_pattern, isFactor);
  if (ranks === null) throw wrong('rank_pattern', 'an object of patterns and positive integers');
  if (alphas === null) throw wrong('alpha_pattern', 'an object of patterns and positive numbers');
  const targetModules = json.target_modules;
  const isNames = Array.isArray(targetModules) && targetModules.every((name) => typeof name === 'string');
  if (typeof targetModules !== 'string' && !isNames) throw wrong('target_modules', 'a pattern or a list of names');
  return {
    rank: r as number,
    alpha: alpha as number,
    dropout,
    rsLora,
    targetModules: targetModules as TargetModules,
    rankOf: (layer) => byPattern(ranks, layer) ?? (r as number),
    alphaOf: (layer) => byPattern(alphas, layer) ?? (alpha as number),
  };
}

/** Whether a key is as if it were not there: the value that switches the option off. */
function isUnset(key: string, value: unknown): boolean {
  if (key === 'bias') return value === 'none';
  if (typeof value === 'object' && value !== null) return Object.keys(value).length === 0;
  return value === null || value === false;
}

function readPattern(value: unknown, check: (value: unknown) => boolean): [string, number][] | null {
  if (value === undefined || value === null) return [];
  if (typeof value !== 'object' || Array.isArray(value) || !Object.values(value).every(check)) return null;
  if (!Object.keys(value).every(isPattern)) return null;
  return Object.entries(value as Record<string, number>);
}

function isPattern(text: string): boolean {
  try {
    wholeMatch(text);
    return true;
  } catch {
    return false;
  }
}

/** The value of the first key that, as a regular expression, matches the layer's name or its end after a dot. */
function byPattern(pattern: readonly [string, number][], layer: string): number | undefined {
  return pattern.find(([key]) => wholeMatch(`(.*\\.)?(${key})`).test(layer))?.[1];
}

/** What PEFT reads back as the same adapter. Layers whose rank or alpha differ stand in the patterns. */
export function writeAdapterConfig(
  settings: LoraSettings,
  layers: readonly [string, LoraLinear][],
  baseModel: string | null,
): Record<string, unknown> {
  const differing = (key: 'rank' | 'alpha') =>
    Object.fromEntries(
      layers.filter(([, layer]) => layer[key] !== settings[key]).map(([name, layer]) => [escapeDots(name), layer[key]]),
    );
  return {
    alpha_pattern: differing('alpha'),
    auto_mapping: null,
    base_model_name_or_path: baseModel,
    bias: 'none',
    fan_in_fan_out: layers.some(([, layer]) => layer.transposed),
    inference_mode: true,
    init_lora_weights: true,
    layers_pattern: null,
    layers_to_transform: null,
    lora_alpha: settings.alpha,
    lora_dropout: settings.dropout,
    modules_to_save: null,
    peft_type: 'LORA',
    r: settings.rank,
    rank_pattern: differing('rank'),
    revision: null,
    // A regular expression of JavaScript need not be one of Python: the layers that it meant are written out.
    target_modules: targetNames(settings.targetModules) ?? layers.map(([name]) => name),
    task_type: 'CAUSAL_LM',
    use_dora: false,
    use_rslora: settings.rsLora,
  };
}

function escapeDots(name: string): string {
  return name.replaceAll('.', '\\.');
}
