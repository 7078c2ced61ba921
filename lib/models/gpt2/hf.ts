// GPT-2 as Hugging Face publishes it: config.json in and out, and the spellings of weight names that files have.
// Not here: reading the files (../load.ts), what a value may be (config.ts).
import { type DType, describe, isDType, ShardloopError } from '../../core/index.js';
import { GPT2_CONFIG_KEYS, type GPT2Config, gpt2Config } from './config.js';

/** config.json may use the general names for these. */
const ALIASES: Readonly<Record<string, keyof GPT2Config>> = {
  hidden_size: 'n_embd',
  max_position_embeddings: 'n_positions',
  num_attention_heads: 'n_head',
  num_hidden_layers: 'n_layer',
};

/** Keys that change the forward pass in a way that this model does not have, and the only values that it accepts. */
const REFUSED: Readonly<Record<string, readonly unknown[]>> = {
  add_cross_attention: [false, null],
  is_encoder_decoder: [false, null],
  quantization_config: [null],
  rope_scaling: [null],
  pruned_heads: [null],
};

/**
 * The configuration in a parsed config.json. Keys that do not concern the forward pass are left out.
 * Throws BAD_MODEL, naming `where`, for a value that no GPT-2 can have or an option that is not supported.
 */
export function readGPT2Config(json: Readonly<Record<string, unknown>>, where = 'config.json'): GPT2Config {
  for (const [key, accepted] of Object.entries(REFUSED)) {
    const value = json[key];
    const empty = typeof value === 'object' && value !== null && Object.keys(value).length === 0;
    if (value === undefined || accepted.includes(value) || empty) continue;
    throw new ShardloopError(
      'BAD_MODEL',
      `${where}: ${key} = ${describe(value)} is not supported; shardloop builds GPT-2 as a decoder with plain weights`,
    );
  }
  const given: Record<string, unknown> = {};
  for (const key of GPT2_CONFIG_KEYS) if (json[key] !== undefined) given[key] = json[key];
  for (const [alias, key] of Object.entries(ALIASES)) {
    if (json[alias] === undefined) continue;
    if (given[key] !== undefined && given[key] !== json[alias]) {
      throw new ShardloopError(
        'BAD_MODEL',
        `${where}: ${key} = ${describe(given[key])} and ${alias} = ${describe(json[alias])} contradict each other`,
      );
    }
    given[key] = json[alias];
  }
  return gpt2Config(given as Partial<GPT2Config>, where);
}

/** The dtype that config.json announces (`dtype`, in older files `torch_dtype`), or null. */
export function announcedDType(json: Readonly<Record<string, unknown>>): DType | null {
  const name = json.dtype ?? json.torch_dtype;
  const plain = typeof name === 'string' ? name.replace(/^torch\./, '') : null;
  return isDType(plain) ? plain : null;
}

/** What Python's transformers reads back as the same configuration. */
export function writeGPT2Config(config: GPT2Config, dtype: DType): Record<string, unknown> {
  return { architectures: ['GPT2LMHeadModel'], model_type: 'gpt2', dtype, ...config };
}

/** The settings of generation that Python's transformers looks for beside the model. */
export function writeGenerationConfig(config: GPT2Config): Record<string, unknown> {
  const ids = {
    bos_token_id: config.bos_token_id,
    eos_token_id: config.eos_token_id,
    pad_token_id: config.pad_token_id,
  };
  const known = Object.entries(ids).filter(([, id]) => id !== null);
  return { _from_model_config: true, ...Object.fromEntries(known) };
}

/** Causal masks that older files carry as tensors; they are constants. */
const CONSTANT = /(^|\.)attn\.(bias|masked_bias)$/;

/**
 * The model's name of each tensor name of a file: with or without the prefix `transformer.`, as GPT2LMHeadModel and
 * GPT2Model write them. Names of constants map to null.
 */
export function publishedName(name: string): string | null {
  if (CONSTANT.test(name)) return null;
  return /^(wte|wpe|h|ln_f)\./.test(name) ? `transformer.${name}` : name;
}

/** The tensors that a file must hold: a tied head stands in the embedding alone. */
export function withoutTies<T>(state: ReadonlyMap<string, T>, config: GPT2Config): Map<string, T> {
  const entries = [...state];
  return new Map(config.tie_word_embeddings ? entries.filter(([name]) => name !== 'lm_head.weight') : entries);
}
