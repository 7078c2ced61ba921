// Tokenizers: bytes and learned vocabularies, their folders, and streaming. Against Python: test/oracle/tokenizer.test.ts.
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fc, test as property } from '@fast-check/vitest';
import { describe, expect, it } from 'vitest';
import { BYTE_CHARACTERS, tokenBytes } from '../../lib/data/byte-level.js';
import { byteTokenizer, loadTokenizer } from '../../lib/data/tokenizer.js';
import { temporaryFolder } from '../temporary.js';

const folder = () => temporaryFolder('tokenizer');
const vocab = Object.fromEntries([...BYTE_CHARACTERS, 'Ġt', 'he', 'Ġthe'].map((token, id) => [token, id]));

/** A small GPT-2 tokenizer as vocab.json and merges.txt. */
function gpt2Folder(config: object = {}): string {
  const dir = folder();
  writeFileSync(join(dir, 'vocab.json'), JSON.stringify({ ...vocab, '<|endoftext|>': 259 }));
  writeFileSync(join(dir, 'merges.txt'), '#version: 0.2\nĠ t\nh e\nĠt he\n');
  writeFileSync(join(dir, 'tokenizer_config.json'), JSON.stringify({ tokenizer_class: 'GPT2Tokenizer', ...config }));
  return dir;
}

describe('byte tokenizer', () => {
  it('gives byte values and special tokens behind them', () => {
    const tokenizer = byteTokenizer({ special: ['<|user|>'] });
    expect(tokenizer.encode('hi 你<|endoftext|><|user|>')).toEqual([104, 105, 32, 0xe4, 0xbd, 0xa0, 256, 258]);
    expect([tokenizer.vocabSize, tokenizer.eosId, tokenizer.bosId, tokenizer.padId]).toEqual([259, 256, 256, 257]);
    expect(tokenizer.encode('')).toEqual([]);
    expect(tokenizer.decode([])).toBe('');
    expect(tokenizer.maxLength).toBeNull();
  });

  it('leaves special tokens out when asked, and ids that do not exist always', () => {
    const tokenizer = byteTokenizer();
    expect(tokenizer.decode([104, 256, 9999, 105])).toBe('h<|endoftext|>i');
    expect(tokenizer.decode([104, 256, 105], { skipSpecialTokens: true })).toBe('hi');
  });

  it('comes back from its folder, with the chat template', async () => {
    const dir = folder();
    await byteTokenizer({ special: ['<|user|>'] }).save(dir, { chatTemplate: '{{ messages[0].content }}' });
    const back = await loadTokenizer(dir);
    expect(back.chatTemplate).toBe('{{ messages[0].content }}');
    expect(back.encode('a<|user|>b')).toEqual([97, 258, 98]);
    expect(readFileSync(join(dir, 'chat_template.jinja'), 'utf8')).toBe('{{ messages[0].content }}');
  });

  it('refuses special tokens that are empty or twice the same', () => {
    expect(() => byteTokenizer({ special: [''] })).toThrow(/not empty/);
    expect(() => byteTokenizer({ special: ['<|pad|>'] })).toThrow(/different/);
  });

  property.prop([fc.string({ unit: 'binary', maxLength: 60 })])('decodes what it encoded', (text) => {
    const tokenizer = byteTokenizer();
    const ids = tokenizer.encode(text);
    expect(tokenizer.decode(ids)).toBe(text);
    const stream = tokenizer.stream();
    expect(ids.map((id) => stream.push(id)).join('') + stream.end()).toBe(text);
  });

  property.prop([fc.array(fc.integer({ min: 0, max: 300 }), { maxLength: 40 })])(
    'streams any ids as a whole decode',
    (ids) => {
      const tokenizer = byteTokenizer();
      const stream = tokenizer.stream();
      expect(ids.map((id) => stream.push(id)).join('') + stream.end()).toBe(tokenizer.decode(ids));
    },
  );
});

describe('streaming', () => {
  it('never shows half a character', () => {
    const tokenizer = byteTokenizer();
    const stream = tokenizer.stream({ skipSpecialTokens: true });
    const pieces = tokenizer.encode('a好😀<|endoftext|>').map((id) => stream.push(id));
    expect(pieces).toEqual(['a', '', '', '好', '', '', '', '😀', '']);
  });

  it('shows U+FFFD for what stays incomplete', () => {
    const stream = byteTokenizer().stream();
    expect(stream.push(0xe5) + stream.push(0xa5) + stream.end()).toBe('\ufffd');
  });

  it('works for tokenizers that are not byte-level', async () => {
    const dir = folder();
    const model = { type: 'BPE', vocab: { '▁hello': 0, '▁world': 1, '▁': 2, '!': 3 }, merges: [], unk_token: '!' };
    const decoder = { type: 'Metaspace', replacement: '▁', prepend_scheme: 'always', split: true };
    const empty = { normalizer: null, post_processor: null, added_tokens: [] };
    writeFileSync(join(dir, 'tokenizer.json'), JSON.stringify({ model, decoder, pre_tokenizer: decoder, ...empty }));
    const stream = (await loadTokenizer(dir)).stream();
    expect([0, 1, 3].map((id) => stream.push(id)).join('|') + stream.end()).toBe('hello| world|!');
  });
});

describe('folders', () => {
  it('reads vocab.json and merges.txt with the end token of GPT-2', async () => {
    const tokenizer = await loadTokenizer(gpt2Folder());
    expect(tokenizer.encode(' the<|endoftext|>')).toEqual([258, 259]);
    expect([tokenizer.eosId, tokenizer.bosId, tokenizer.padId, tokenizer.vocabSize]).toEqual([259, 259, 259, 260]);
    expect(tokenizer.decode([258, 259])).toBe(' the<|endoftext|>');
  });

  it('saves them as a tokenizer.json with the same ids', async () => {
    const dir = folder();
    await (await loadTokenizer(gpt2Folder())).save(dir);
    expect((await loadTokenizer(dir)).encode(' the then')).toEqual(
      (await loadTokenizer(gpt2Folder())).encode(' the then'),
    );
  });

  it('honours add_prefix_space, and continues without the extra space', async () => {
    const tokenizer = await loadTokenizer(gpt2Folder({ add_prefix_space: true }));
    expect(tokenizer.encode('the')).toEqual([258]);
    expect(tokenizer.decode(tokenizer.encodeContinuation('the'))).toBe('the');
  });

  it('adds tokens that only tokenizer_config.json names, as Python does', async () => {
    const token = { content: '<|im_end|>', special: true, lstrip: false, rstrip: false, normalized: false };
    const tokenizer = await loadTokenizer(
      gpt2Folder({ eos_token: '<|im_end|>', pad_token: '<|pad|>', added_tokens_decoder: { 260: token } }),
    );
    expect([tokenizer.eosId, tokenizer.padId, tokenizer.bosId]).toEqual([260, 261, 259]);
    expect(tokenizer.encode('<|im_end|><|pad|>')).toEqual([260, 261]);
    expect(tokenizer.isSpecial(260) && tokenizer.isSpecial(261)).toBe(true);
  });

  it('takes special tokens from special_tokens_map.json, and the end token from config.json', async () => {
    const dir = gpt2Folder({ tokenizer_class: 'PreTrainedTokenizerFast', model_max_length: 1024 });
    writeFileSync(join(dir, 'special_tokens_map.json'), JSON.stringify({ pad_token: { content: '<|endoftext|>' } }));
    writeFileSync(join(dir, 'config.json'), JSON.stringify({ eos_token_id: 258 }));
    const tokenizer = await loadTokenizer(dir);
    expect([tokenizer.eosToken, tokenizer.eosId, tokenizer.padId, tokenizer.bosId]).toEqual(['Ġthe', 258, 259, null]);
    expect(tokenizer.maxLength).toBe(1024);
  });

  it('prefers chat_template.jinja, then the default of a list', async () => {
    const list = [
      { name: 'tools', template: 'no' },
      { name: 'default', template: 'yes' },
    ];
    const dir = gpt2Folder({ chat_template: list });
    expect((await loadTokenizer(dir)).chatTemplate).toBe('yes');
    writeFileSync(join(dir, 'chat_template.jinja'), 'file');
    expect((await loadTokenizer(dir)).chatTemplate).toBe('file');
  });

  it.each([
    ['nothing', {}, /found none/],
    ['no JSON', { 'tokenizer.json': '{' }, /expected JSON/],
    ['an array', { 'tokenizer.json': '[]' }, /JSON object/],
    ['no model', { 'tokenizer.json': '{}' }, /"model"/],
    ['no vocabulary', { 'tokenizer.json': '{"model": {}}' }, /model\.vocab/],
    [
      'an unknown model',
      { 'tokenizer.json': '{"model": {"type": "X", "vocab": {}}}' },
      /to be BPE, WordPiece, Unigram, got "X"/,
    ],
    ['broken merges', { 'tokenizer.json': '{"model": {"vocab": {}, "merges": 3}}' }, /cannot be used/],
  ])('refuses a folder with %s', async (_, files, message) => {
    const dir = folder();
    for (const [name, text] of Object.entries(files)) writeFileSync(join(dir, name), text);
    await expect(loadTokenizer(dir)).rejects.toMatchObject({
      code: 'BAD_MODEL',
      message: expect.stringMatching(message),
    });
  });
});

it('maps tokens of the byte alphabet to bytes and others to null', () => {
  expect([...tokenBytes('Ġa')!]).toEqual([32, 97]);
  expect(tokenBytes('你')).toBeNull();
});
