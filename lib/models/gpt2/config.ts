// The configuration of a GPT-2: the keys of Hugging Face's GPT2Config that decide the forward pass or a conversion,
// with the same names and defaults, and what each may be. Reading and writing config.json is hf.ts.
import { describe, ShardloopError } from '../../core/index.js';
import { activation } from '../activations.js';

/** What a GPT-2 is. Names and defaults are those of Hugging Face's `config.json`. */
export interface GPT2Config {
  /** Tokens in the vocabulary: rows of the embedding and of the head. Default 50257. */
  readonly vocab_size: number;
  /** The longest sequence: rows of the position embedding. Default 1024. */
  readonly n_positions: number;
  /** Width of the residual stream. Default 768. */
  readonly n_embd: number;
  /** Blocks. Default 12. */
  readonly n_layer: number;
  /** Attention heads; they divide n_embd. Default 12. */
  readonly n_head: number;
  /** Width inside the MLP; null means 4 x n_embd. Default null. */
  readonly n_inner: number | null;
  /** The MLP's activation, by Hugging Face's name. Default 'gelu_new'. */
  readonly activation_function: string;
  /** Dropout behind each attention and MLP. Default 0.1. */
  readonly resid_pdrop: number;
  /** Dropout of the embeddings. Default 0.1. */
  readonly embd_pdrop: number;
  /** Dropout of the attention weights. Default 0.1. */
  readonly attn_pdrop: number;
  /** Epsilon of every LayerNorm. Default 1e-5. */
  readonly layer_norm_epsilon: number;
  /** Standard deviation of the initial weights. Default 0.02. */
  readonly initializer_range: number;
  /** Whether attention scores are divided by the square root of the head's width. Default true. */
  readonly scale_attn_weights: boolean;
  /** Whether attention scores of block i (from 0) are also divided by i + 1. Default false. */
  readonly scale_attn_by_inverse_layer_idx: boolean;
  /** Whether scores and softmax are computed in fp32 when the weights are in half precision. Default false. */
  readonly reorder_and_upcast_attn: boolean;
  /** Whether the head's weight is the token embedding's. Default true. */
  readonly tie_word_embeddings: boolean;
  /** Token that begins a text. Default 50256, or null when the vocabulary is smaller. */
  readonly bos_token_id: number | null;
  /** Token, or tokens, at which generation stops. Default 50256, or null when the vocabulary is smaller. */
  readonly eos_token_id: number | readonly number[] | null;
  /** Token that fills up. Default null. */
  readonly pad_token_id: number | null;
}

type Check = (value: unknown, config: Record<string, unknown>) => string | null;

const size: Check = (value) => (Number.isSafeInteger(value) && (value as number) > 0 ? null : 'a positive integer');
const probability: Check = (value) =>
  typeof value === 'number' && value >= 0 && value < 1 ? null : 'a number from 0 to below 1';
const positive: Check = (value) => (typeof value === 'number' && value > 0 && value < Infinity ? null : 'a number > 0');
const flag: Check = (value) => (typeof value === 'boolean' ? null : 'true or false');
const token: Check = (value) =>
  value === null || (Number.isSafeInteger(value) && (value as number) >= 0) ? null : 'a token id or null';

const KEYS: { readonly [K in keyof GPT2Config]: { readonly fallback: GPT2Config[K]; readonly check: Check } } = {
  vocab_size: { fallback: 50257, check: size },
  n_positions: { fallback: 1024, check: size },
  n_embd: { fallback: 768, check: size },
  n_layer: { fallback: 12, check: size },
  n_head: { fallback: 12, check: size },
  n_inner: {
    fallback: null,
    check: (value) => (value === null || size(value, {}) === null ? null : 'a positive integer or null'),
  },
  activation_function: {
    fallback: 'gelu_new',
    check: (value) => (typeof value === 'string' && activation(value) ? null : 'the name of an activation'),
  },
  resid_pdrop: { fallback: 0.1, check: probability },
  embd_pdrop: { fallback: 0.1, check: probability },
  attn_pdrop: { fallback: 0.1, check: probability },
  layer_norm_epsilon: { fallback: 1e-5, check: positive },
  initializer_range: { fallback: 0.02, check: (value) => (value === 0 ? null : positive(value, {})) },
  scale_attn_weights: { fallback: true, check: flag },
  scale_attn_by_inverse_layer_idx: { fallback: false, check: flag },
  reorder_and_upcast_attn: { fallback: false, check: flag },
  tie_word_embeddings: { fallback: true, check: flag },
  bos_token_id: { fallback: 50256, check: token },
  eos_token_id: {
    fallback: 50256,
    check: (value) =>
      (
        Array.isArray(value) && value.length > 0
          ? value.every((id) => id !== null && token(id, {}) === null)
          : token(value, {}) === null
      )
        ? null
        : 'a token id, a list of token ids, or null',
  },
  pad_token_id: { fallback: null, check: token },
};

/** The keys of {@link GPT2Config}. */
export const GPT2_CONFIG_KEYS = Object.keys(KEYS) as readonly (keyof GPT2Config)[];

/**
 * A whole configuration from the keys that are given; the others get Hugging Face's defaults. Other keys are left out.
 * Throws BAD_MODEL, naming `where`, for a value that no GPT-2 can have.
 */
export function gpt2Config(given: Partial<GPT2Config> = {}, where = 'GPT-2 configuration'): GPT2Config {
  const config: Record<string, unknown> = {};
  for (const key of GPT2_CONFIG_KEYS) {
    const { fallback, check } = KEYS[key];
    const value = given[key] === undefined ? fallback : given[key];
    const expected = check(value, config);
    if (expected !== null) {
      throw new ShardloopError('BAD_MODEL', `${where}: ${key}: expected ${expected}, received ${describe(value)}`);
    }
    config[key] = value;
  }
  const complete = config as unknown as GPT2Config;
  if (complete.n_embd % complete.n_head !== 0) {
    throw new ShardloopError(
      'BAD_MODEL',
      `${where}: expected n_head to divide n_embd, received n_head ${complete.n_head} and n_embd ${complete.n_embd}`,
    );
  }
  // The defaults are GPT-2's own tokens; a model with a smaller vocabulary has them only when it says so.
  const beyond = (key: 'bos_token_id' | 'eos_token_id') => given[key] === undefined && complete.vocab_size <= 50256;
  return {
    ...complete,
    bos_token_id: beyond('bos_token_id') ? null : complete.bos_token_id,
    eos_token_id: beyond('eos_token_id') ? null : complete.eos_token_id,
  };
}

/** The scale of the attention scores of block `layer` (from 0). */
export function attentionScale(config: GPT2Config, layer: number): number {
  const byWidth = config.scale_attn_weights ? (config.n_embd / config.n_head) ** -0.5 : 1;
  return config.scale_attn_by_inverse_layer_idx ? byWidth / (layer + 1) : byWidth;
}
