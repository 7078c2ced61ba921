// The files of a tokenizer folder: tokenizer.json, tokenizer_config.json, special_tokens_map.json, chat_template.jinja, and
// GPT-2's older pair vocab.json + merges.txt. Reads and writes them; what they mean stands in tokenizer.ts.
import { mkdir, readFile, rename, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, ShardloopError } from '../core/errors.js';

/** An added token as tokenizer.json spells it. */
export interface AddedToken {
  id: number;
  content: string;
  single_word: boolean;
  lstrip: boolean;
  rstrip: boolean;
  normalized: boolean;
  special: boolean;
}

/** A step of tokenizer.json's pipeline: its type and fields. */
export interface Stage {
  type: string;
  decoders?: Stage[];
  [key: string]: unknown;
}

/** The parts of tokenizer.json that shardloop looks at; the rest travels through untouched. */
export interface TokenizerJson {
  added_tokens: AddedToken[];
  normalizer: Stage | null;
  pre_tokenizer: Stage | null;
  post_processor: Stage | null;
  decoder: Stage | null;
  model: {
    type: string;
    vocab: Record<string, number> | [string, number][];
    merges?: unknown[];
    [key: string]: unknown;
  };
  [key: string]: unknown;
}

/** tokenizer_config.json. */
export interface TokenizerConfig {
  added_tokens_decoder?: Record<string, Omit<AddedToken, 'id'>>;
  [key: string]: unknown;
}

/** Everything that a tokenizer folder says. */
export interface TokenizerFiles {
  json: TokenizerJson;
  config: TokenizerConfig;
  specialTokensMap: Record<string, unknown> | null;
  chatTemplate: string | null;
  /** config.json's end token, for folders whose tokenizer files name none. */
  eosId: number | null;
  /** Whether GPT-2's own default special token applies. */
  gpt2: boolean;
}

/** Reads a tokenizer folder. Throws BAD_MODEL when the files are missing or are not what they should be. */
export async function readTokenizerFiles(dir: string): Promise<TokenizerFiles> {
  const config = ((await readJson(join(dir, 'tokenizer_config.json'))) ?? {}) as TokenizerConfig;
  const model = (await readJson(join(dir, 'config.json'))) ?? {};
  const tokenizerClass = String(config.tokenizer_class ?? '');
  const gpt2 = /^GPT2/.test(tokenizerClass) || (tokenizerClass === '' && model.model_type === 'gpt2');
  const file = join(dir, 'tokenizer.json');
  const json = (await readJson(file)) ?? (await fromVocabAndMerges(dir, config));
  checkShape(json, file);
  const eos = Array.isArray(model.eos_token_id) ? model.eos_token_id[0] : model.eos_token_id;
  return {
    json: json as unknown as TokenizerJson,
    config,
    specialTokensMap: await readJson(join(dir, 'special_tokens_map.json')),
    chatTemplate: (await readText(join(dir, 'chat_template.jinja'))) ?? templateOf(config),
    eosId: typeof eos === 'number' ? eos : null,
    gpt2,
  };
}

/** Writes a tokenizer folder; each file under a temporary name first. */
export async function writeTokenizerFiles(
  dir: string,
  files: TokenizerFiles,
  chatTemplate: string | null,
): Promise<void> {
  await mkdir(dir, { recursive: true });
  const config = { ...files.config };
  delete config.chat_template; // the file beside it is the one place
  await writeAtomic(join(dir, 'tokenizer.json'), `${JSON.stringify(files.json, null, 2)}\n`);
  await writeAtomic(join(dir, 'tokenizer_config.json'), `${JSON.stringify(config, null, 2)}\n`);
  if (files.specialTokensMap) {
    await writeAtomic(join(dir, 'special_tokens_map.json'), `${JSON.stringify(files.specialTokensMap, null, 2)}\n`);
  }
  if (chatTemplate !== null) await writeAtomic(join(dir, 'chat_template.jinja'), chatTemplate);
}

async function writeAtomic(path: string, text: string): Promise<void> {
  const temporary = `${path}.${process.pid}.tmp`;
  await writeFile(temporary, text, { flush: true });
  await rename(temporary, path);
}

function templateOf(config: TokenizerConfig): string | null {
  const template = config.chat_template;
  if (typeof template === 'string') return template;
  if (!Array.isArray(template)) return null;
  const named = template as { name?: unknown; template?: unknown }[];
  const chosen = named.find((entry) => entry?.name === 'default')?.template;
  return typeof chosen === 'string' ? chosen : null;
}

/** A tokenizer.json made of GPT-2's vocab.json and merges.txt, as transformers makes it. */
async function fromVocabAndMerges(dir: string, config: TokenizerConfig): Promise<Record<string, unknown>> {
  const vocab = await readJson(join(dir, 'vocab.json'));
  const merges = await readText(join(dir, 'merges.txt'));
  if (!vocab || merges === null) {
    throw new ShardloopError(
      'BAD_MODEL',
      `${dir}: expected a tokenizer (tokenizer.json, or vocab.json and merges.txt), found none. ` +
        "Save one there, in Python with tokenizer.save_pretrained('DIR').",
    );
  }
  const space = config.add_prefix_space === true;
  const lines = merges.split('\n').map((line) => line.replace(/\r$/, ''));
  return {
    version: '1.0',
    truncation: null,
    padding: null,
    added_tokens: [],
    normalizer: null,
    pre_tokenizer: { type: 'ByteLevel', add_prefix_space: space, trim_offsets: true, use_regex: true },
    post_processor: null,
    decoder: { type: 'ByteLevel', add_prefix_space: true, trim_offsets: true, use_regex: true },
    model: {
      type: 'BPE',
      dropout: null,
      unk_token: null,
      continuing_subword_prefix: '',
      end_of_word_suffix: '',
      fuse_unk: false,
      byte_fallback: false,
      ignore_merges: false,
      vocab,
      merges: lines.filter((line) => line !== '' && !line.startsWith('#version')).map((line) => line.split(' ', 2)),
    },
  };
}

const MODELS: readonly unknown[] = ['BPE', 'WordPiece', 'Unigram'];

function checkShape(json: Record<string, unknown>, file: string): void {
  const model = json.model as { type?: unknown; vocab?: unknown } | undefined;
  const bad = (what: string) => new ShardloopError('BAD_MODEL', `${file}: expected ${what}. Is it a tokenizer.json?`);
  if (typeof model !== 'object' || model === null) throw bad('a "model" object');
  if (typeof model.vocab !== 'object' || model.vocab === null) throw bad('a vocabulary under "model.vocab"');
  model.type ??= 'BPE';
  if (!MODELS.includes(model.type)) throw bad(`"model.type" to be ${MODELS.join(', ')}, got ${describe(model.type)}`);
  json.added_tokens ??= [];
  if (!Array.isArray(json.added_tokens)) throw bad('"added_tokens" to be an array');
  for (const stage of ['normalizer', 'pre_tokenizer', 'post_processor', 'decoder']) json[stage] ??= null;
}

/** A JSON object from a file, or null when the file is not there. */
async function readJson(path: string): Promise<Record<string, unknown> | null> {
  const text = await readText(path);
  if (text === null) return null;
  let value: unknown;
  try {
    value = JSON.parse(text.replace(/^\ufeff/, ''));
  } catch (error) {
    throw new ShardloopError('BAD_MODEL', `${path}: expected JSON: ${(error as Error).message}`, { cause: error });
  }
  if (typeof value !== 'object' || value === null || Array.isArray(value)) {
    throw new ShardloopError('BAD_MODEL', `${path}: expected a JSON object`);
  }
  return value as Record<string, unknown>;
}

async function readText(path: string): Promise<string | null> {
  try {
    return await readFile(path, 'utf8');
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return null;
    throw new ShardloopError('BAD_MODEL', `${path}: cannot be read: ${(error as Error).message}`, { cause: error });
  }
}
