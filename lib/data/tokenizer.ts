// Where tokenizers come from: a Hugging Face folder, or the plain bytes of UTF-8, which need nothing learned. What a
// tokenizer then does stands in tokenizer-class.ts.
import { ShardloopError } from '../core/errors.js';
import { BYTE_CHARACTERS } from './byte-level.js';
import { Tokenizer } from './tokenizer-class.js';
import { readTokenizerFiles, type TokenizerFiles } from './tokenizer-files.js';

/**
 * Reads the tokenizer of a Hugging Face folder: tokenizer.json (or GPT-2's vocab.json and merges.txt),
 * tokenizer_config.json, special_tokens_map.json and chat_template.jinja. Throws BAD_MODEL when it has none.
 */
export async function loadTokenizer(dir: string): Promise<Tokenizer> {
  return makeTokenizer(await readTokenizerFiles(dir), dir);
}

function makeTokenizer(files: TokenizerFiles, source: string): Tokenizer {
  try {
    return new Tokenizer(files);
  } catch (error) {
    if (error instanceof ShardloopError) throw error;
    throw new ShardloopError('BAD_MODEL', `${source}: the tokenizer cannot be used: ${(error as Error).message}`, {
      cause: error,
    });
  }
}

/**
 * A tokenizer whose tokens are the 256 bytes of UTF-8 (ids 0 to 255 are the byte values) followed by special tokens:
 * `<|endoftext|>` (256: end and start) and `<|pad|>` (257), then `special`. Its saved folder gives the same ids in Python.
 */
export function byteTokenizer(options: { special?: readonly string[]; chatTemplate?: string } = {}): Tokenizer {
  const special = ['<|endoftext|>', '<|pad|>', ...(options.special ?? [])];
  if (new Set(special).size !== special.length || special.includes('')) {
    throw new ShardloopError(
      'BAD_ARGUMENT',
      `special tokens must be different and not empty, got ${special.join(', ')}`,
    );
  }
  const flags = { single_word: false, lstrip: false, rstrip: false, normalized: false, special: true };
  const level = { type: 'ByteLevel', add_prefix_space: false, trim_offsets: true, use_regex: false };
  return makeTokenizer(
    {
      json: {
        version: '1.0',
        truncation: null,
        padding: null,
        added_tokens: special.map((content, i) => ({ id: 256 + i, content, ...flags })),
        normalizer: null,
        pre_tokenizer: level,
        post_processor: null,
        decoder: level,
        model: {
          type: 'BPE',
          dropout: null,
          unk_token: null,
          continuing_subword_prefix: null,
          end_of_word_suffix: null,
          fuse_unk: false,
          byte_fallback: false,
          ignore_merges: false,
          vocab: Object.fromEntries(BYTE_CHARACTERS.map((character, byte) => [character, byte])),
          merges: [],
        },
      },
      config: {
        tokenizer_class: 'PreTrainedTokenizerFast',
        bos_token: '<|endoftext|>',
        eos_token: '<|endoftext|>',
        pad_token: '<|pad|>',
        clean_up_tokenization_spaces: false,
        ...(options.special?.length ? { additional_special_tokens: [...options.special] } : {}),
      },
      specialTokensMap: null,
      chatTemplate: options.chatTemplate ?? null,
      eosId: null,
      gpt2: false,
    },
    'byteTokenizer',
  );
}

export type { DecodeStream } from './decode-stream.js';
export type { DecodeOptions, EncodeOptions } from './tokenizer-class.js';
export { Tokenizer } from './tokenizer-class.js';
