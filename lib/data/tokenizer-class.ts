// The tokenizer: text to token ids and back, with the ids that Python's tokenizers gives, over @huggingface/tokenizers.
// Making one stands in tokenizer.ts, the files of its folder in tokenizer-files.ts, chat templates in
// chat-template.ts. No offsets and no training here.
import { Tokenizer as Engine } from '@huggingface/tokenizers';
import { ShardloopError } from '../core/errors.js';
import { tokenBytes } from './byte-level.js';
import { byteStream, type DecodeStream, type TokenPiece, windowStream } from './decode-stream.js';
import { type TokenizerFiles, type TokenizerJson, writeTokenizerFiles } from './tokenizer-files.js';

/** The names under which tokenizer_config.json and special_tokens_map.json keep special tokens. */
type SpecialName = 'eos_token' | 'bos_token' | 'pad_token' | 'unk_token';

const SPECIALS: readonly SpecialName[] = ['bos_token', 'eos_token', 'unk_token', 'pad_token'];

/** How to encode: whether the tokenizer's own start and end tokens are added (as Python does by default). */
export interface EncodeOptions {
  specialTokens?: boolean;
}

/** How to decode: whether special tokens such as `<|endoftext|>` are left out. Python keeps them by default. */
export interface DecodeOptions {
  skipSpecialTokens?: boolean;
}

/**
 * A tokenizer of a Hugging Face folder. Made by {@link loadTokenizer} or {@link byteTokenizer}.
 */
export class Tokenizer {
  /** One more than the largest token id. A model's embedding has at least so many rows. */
  readonly vocabSize: number;
  /** The token that ends a text or an answer, or null. */
  readonly eosToken: string | null;
  readonly bosToken: string | null;
  readonly unkToken: string | null;
  readonly eosId: number | null;
  readonly bosId: number | null;
  readonly unkId: number | null;
  /** The token that fills short rows: the folder's own, else the end token, else 0. */
  readonly padId: number;
  /** The Jinja chat template that came with the tokenizer, or null. */
  readonly chatTemplate: string | null;
  /** The longest text in tokens that the folder says its model takes, or null. */
  readonly maxLength: number | null;

  readonly #engine: Engine;
  readonly #files: TokenizerFiles;
  readonly #vocab = new Map<string, number>();
  readonly #tokens: (string | undefined)[] = [];
  readonly #added = new Set<number>();
  readonly #special = new Set<number>();
  readonly #pieces: TokenPiece[] = [];
  readonly #byteLevel: boolean;
  readonly #plainBytes: RegExp | null;
  readonly #prefixesSpace: boolean;

  /** @internal Use {@link loadTokenizer} or {@link byteTokenizer}. */
  constructor(files: TokenizerFiles) {
    this.#files = files;
    const names = specialNames(files);
    names.eos_token ??= tokenOf(files, files.eosId);
    const json = withMissingTokens(files, names);
    this.#engine = new Engine(json, files.config);
    for (const [token, id] of this.#engine.get_vocab()) {
      if (token === undefined) continue;
      this.#vocab.set(token, id);
      this.#tokens[id] = token;
    }
    this.vocabSize = this.#tokens.length;
    for (const token of json.added_tokens) {
      this.#added.add(token.id);
      if (token.special) this.#special.add(token.id);
    }
    for (const name of SPECIALS) {
      const id = this.#vocab.get(names[name] ?? '');
      if (id !== undefined) this.#special.add(id);
    }
    this.#byteLevel = usesByteLevel(json.decoder);
    this.eosToken = names.eos_token ?? null;
    this.bosToken = names.bos_token ?? null;
    this.unkToken = names.unk_token ?? null;
    this.eosId = this.tokenToId(this.eosToken);
    this.bosId = this.tokenToId(this.bosToken);
    this.unkId = this.tokenToId(this.unkToken);
    this.padId = this.tokenToId(names.pad_token ?? null) ?? this.eosId ?? 0;
    this.chatTemplate = files.chatTemplate;
    const longest = files.config.model_max_length;
    this.maxLength = typeof longest === 'number' && longest > 0 && longest < 1e9 ? longest : null;
    this.#plainBytes = plainBytes(json) ? splitter(json) : null;
    this.#prefixesSpace = this.#plainBytes === null && this.decode(this.encode('a', { specialTokens: false })) !== 'a';
  }

  /** Text to token ids. Special tokens written out in the text become their ids, as in Python. */
  encode(text: string, options: EncodeOptions = {}): number[] {
    if (typeof text !== 'string')
      throw new ShardloopError('BAD_ARGUMENT', `encode expects a string, got ${typeof text}`);
    if (text === '' && this.#plainBytes) return [];
    if (this.#plainBytes) return this.#encodeBytes(text, this.#plainBytes);
    return this.#engine.encode(text, { add_special_tokens: options.specialTokens ?? true }).ids;
  }

  /**
   * Ids of a text that goes on after another one: without the space that some tokenizers put before a text, and without
   * start and end tokens.
   */
  encodeContinuation(text: string): number[] {
    if (!this.#prefixesSpace) return this.encode(text, { specialTokens: false });
    const before = this.encode('\n', { specialTokens: false });
    const both = this.encode(`\n${text}`, { specialTokens: false });
    if (before.every((id, i) => both[i] === id)) return both.slice(before.length);
    return this.encode(text, { specialTokens: false });
  }

  /** Token ids to text; ids outside the vocabulary are left out. Bytes that are not UTF-8 become U+FFFD. */
  decode(ids: ArrayLike<number>, options: DecodeOptions = {}): string {
    const skip = options.skipSpecialTokens ?? false;
    if (!this.#byteLevel) return this.#decodeByEngine(Array.from(ids), skip);
    const stream = this.stream(options);
    let text = '';
    for (let i = 0; i < ids.length; i++) text += stream.push(ids[i]!);
    return text + stream.end();
  }

  /** A decoder for ids that come one at a time; see {@link DecodeStream}. */
  stream(options: DecodeOptions = {}): DecodeStream {
    const skip = options.skipSpecialTokens ?? false;
    if (!this.#byteLevel) return windowStream((ids) => this.#decodeByEngine(ids, skip));
    return byteStream((id) => (skip && this.#special.has(id) ? null : this.#piece(id)));
  }

  /** The id of a token's string, or null. */
  tokenToId(token: string | null): number | null {
    return token === null ? null : (this.#vocab.get(token) ?? null);
  }

  /** The string of a token id (byte-level tokens in their byte alphabet), or null. */
  idToToken(id: number): string | null {
    return this.#tokens[id] ?? null;
  }

  /** Whether decoding with skipSpecialTokens leaves this id out. */
  isSpecial(id: number): boolean {
    return this.#special.has(id);
  }

  /** The special tokens' strings. */
  get specialTokens(): string[] {
    return [...this.#special].map((id) => this.#tokens[id]).filter((token) => token !== undefined);
  }

  /**
   * Writes tokenizer.json, tokenizer_config.json, special_tokens_map.json (where the folder had one) and, with a chat template,
   * chat_template.jinja into `dir`, which is made if it is missing. `chatTemplate` replaces the tokenizer's own.
   */
  async save(dir: string, options: { chatTemplate?: string } = {}): Promise<void> {
    await writeTokenizerFiles(dir, this.#files, options.chatTemplate ?? this.chatTemplate);
  }

  #piece(id: number): TokenPiece {
    const known = this.#pieces[id];
    if (known !== undefined) return known;
    const token = this.#tokens[id];
    if (token === undefined) return null;
    const piece = this.#added.has(id) ? token : (tokenBytes(token) ?? token);
    this.#pieces[id] = piece;
    return piece;
  }

  #decodeByEngine(ids: readonly number[], skip: boolean): string {
    const known = ids.filter((id) => this.#tokens[id] !== undefined && !(skip && this.#special.has(id)));
    if (known.length === 0) return '';
    const bpe = this.#files.json.model.type === 'BPE';
    const cleanUp = !bpe && this.#files.config.clean_up_tokenization_spaces === true;
    return this.#engine.decode(known, { skip_special_tokens: false, clean_up_tokenization_spaces: cleanUp });
  }

  #encodeBytes(text: string, special: RegExp): number[] {
    const ids: number[] = [];
    for (const part of text.split(special)) {
      const id = this.#vocab.get(part);
      if (id !== undefined && this.#added.has(id)) ids.push(id);
      else for (const byte of Buffer.from(part, 'utf8')) ids.push(byte);
    }
    return ids;
  }
}

function usesByteLevel(decoder: TokenizerJson['decoder']): boolean {
  if (!decoder) return false;
  return (
    decoder.type === 'ByteLevel' || (decoder.type === 'Sequence' && decoder.decoders?.every(usesByteLevel) === true)
  );
}

/** Special token names: tokenizer_config.json, then special_tokens_map.json, then GPT-2's default where it fits. */
function specialNames(files: TokenizerFiles): Partial<Record<SpecialName, string>> {
  const names: Partial<Record<SpecialName, string>> = {};
  for (const name of SPECIALS) {
    const value = files.config[name] ?? files.specialTokensMap?.[name];
    const content = typeof value === 'object' && value !== null ? (value as { content?: unknown }).content : value;
    if (typeof content === 'string') names[name] = content;
  }
  if (files.gpt2) {
    for (const name of ['bos_token', 'eos_token', 'unk_token'] as const) {
      if (files.config[name] === undefined && names[name] === undefined) names[name] = '<|endoftext|>';
    }
  }
  return names;
}

function tokenOf({ json }: TokenizerFiles, id: number | null): string | undefined {
  if (id === null) return undefined;
  const vocab = json.model.vocab;
  const listed = Array.isArray(vocab) ? vocab[id]?.[0] : Object.entries(vocab).find((entry) => entry[1] === id)?.[0];
  return json.added_tokens.find((token) => token.id === id)?.content ?? listed;
}

/** tokenizer.json with the tokens that only tokenizer_config.json names, which Python adds at the end as well. */
function withMissingTokens(files: TokenizerFiles, names: Partial<Record<SpecialName, string>>): TokenizerJson {
  const { json, config } = files;
  const added = [...json.added_tokens];
  const vocab = json.model.vocab;
  const listed = Array.isArray(vocab)
    ? new Map(vocab.map(([token], id) => [token, id]))
    : new Map(Object.entries(vocab));
  for (const token of added) listed.set(token.content, token.id);
  let next = 0;
  for (const id of listed.values()) next = Math.max(next, id + 1);
  const plain = { single_word: false, lstrip: false, rstrip: false, normalized: false };
  for (const [id, token] of Object.entries(config.added_tokens_decoder ?? {})) {
    if (typeof token?.content !== 'string' || listed.has(token.content)) continue;
    added.push({ ...plain, ...token, id: Number(id) });
    listed.set(token.content, Number(id));
    next = Math.max(next, Number(id) + 1);
  }
  for (const name of SPECIALS) {
    const content = names[name];
    if (content === undefined) continue;
    const id = listed.get(content) ?? next++;
    if (!added.some((token) => token.content === content)) added.push({ ...plain, content, id, special: true });
    listed.set(content, id);
  }
  return { ...json, added_tokens: added };
}

/** Whether every text is simply its UTF-8 bytes: byte-level BPE without merges whose ids are the byte values. */
function plainBytes(json: TokenizerJson): boolean {
  const { model, pre_tokenizer: pre } = json;
  if (model.type !== 'BPE' || model.merges?.length !== 0 || json.normalizer || json.post_processor) return false;
  if (pre?.type !== 'ByteLevel' || pre.add_prefix_space === true || Array.isArray(model.vocab)) return false;
  if (json.added_tokens.some((token) => token.lstrip || token.rstrip || token.single_word)) return false;
  const entries = Object.entries(model.vocab).filter(([, id]) => id < 256);
  return entries.length === 256 && entries.every(([token, id]) => tokenBytes(token)?.[0] === id && token.length === 1);
}

/** Splits a text at its added tokens, longest first, and keeps them. */
function splitter(json: TokenizerJson): RegExp {
  const contents = json.added_tokens.map((token) => token.content).sort((a, b) => b.length - a.length);
  if (contents.length === 0) return /(?!)/;
  return new RegExp(`(${contents.map((content) => content.replace(/[.*+?^${}()|[\]\\]/g, '\\$&')).join('|')})`);
}
