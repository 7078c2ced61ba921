// Records to examples: labels, long records, texts that are cut, and the bundled data.
import { fileURLToPath } from 'node:url';
import { expect, it } from 'vitest';
import { nameAsFlags } from '../../lib/core/option-names.js';
import { ChatTemplate } from '../../lib/data/chat-template.js';
import { type EncodeRecordOptions, encodeRecord, encodeRecords } from '../../lib/data/encode.js';
import type { DataRecord } from '../../lib/data/record-shape.js';
import { loadRecords } from '../../lib/data/records.js';
import { byteTokenizer } from '../../lib/data/tokenizer.js';

const tokenizer = byteTokenizer();
const source = { file: 'f.jsonl', line: 5 };
const chat = (prompt: string, response: string): DataRecord => ({
  kind: 'chat',
  messages: [
    { role: 'user', content: prompt },
    { role: 'assistant', content: response },
  ],
  source,
});
const text = (content: string): DataRecord => ({ kind: 'text', text: content, source });
const encode = (records: DataRecord[], options?: EncodeRecordOptions) => encodeRecords(records, tokenizer, options);
const data = (name: string) => fileURLToPath(new URL(`../../examples/data/${name}`, import.meta.url));

it('labels the response and the end token only', () => {
  const { ids, labels } = encodeRecord(chat('ab', 'c'), tokenizer);
  expect([...ids]).toEqual([97, 98, 10, 99, 256]);
  expect([...labels]).toEqual([-100, -100, -100, 99, 256]);
});

it('labels all of a text but its first token, and ends it', () => {
  const { ids, labels } = encodeRecord(text('abc'), tokenizer);
  expect([...ids]).toEqual([97, 98, 99, 256]);
  expect([...labels]).toEqual([-100, 98, 99, 256]);
});

it('uses the template that it is given', () => {
  const template = new ChatTemplate(tokenizer, '{% for m in messages %}{{ m.content }}|{% endfor %}');
  expect(tokenizer.decode(encodeRecord(chat('ab', 'c'), tokenizer, { template }).ids)).toBe('ab|c|');
  expect(tokenizer.decode(encode([chat('ab', 'c')], { template }).examples[0]!.ids)).toBe('ab|c|');
});

it('counts labelled tokens', () => {
  expect(encode([chat('ab', 'c'), text('abc')])).toMatchObject({ labelledTokens: 5, truncated: 0, skipped: 0 });
});

it('truncates, refuses or skips what is too long', () => {
  const records = [chat('ab', 'cdef'), chat('a', 'b')];
  const cut = encode(records, { seqLen: 5 });
  expect(cut).toMatchObject({ truncated: 1, skipped: 0, labelledTokens: 4 });
  expect(tokenizer.decode(cut.examples[0]!.ids)).toBe('ab\ncd');
  expect(encode(records, { seqLen: 5, overlong: 'skip' })).toMatchObject({ skipped: 1, examples: { length: 1 } });
  const refused = expect.objectContaining({
    code: 'BAD_RECORD',
    message: expect.stringMatching(
      /f\.jsonl:5: expected at most 5 tokens, got 8\. Raise seqLen or allow truncation \(overlong: 'truncate'\)/,
    ),
  });
  expect(() => encode(records, { seqLen: 5, overlong: 'refuse' })).toThrow(refused);
  expect(() => encodeRecord(records[0]!, tokenizer, { seqLen: 5, overlong: 'refuse' })).toThrow(refused);
  expect(() => nameAsFlags(() => encode(records, { seqLen: 5, overlong: 'refuse' }))).toThrow(
    'Raise --seq-len or allow truncation (--overlong truncate)',
  );
  expect(encodeRecord(records[0]!, tokenizer, { seqLen: 5 }).ids).toHaveLength(5);
});

it('refuses a record of which truncation would leave nothing to learn', () => {
  expect(() => encode([chat('abcdef', 'g')], { seqLen: 7 })).toThrow(
    /f\.jsonl:5: .*within 7 tokens, got a prompt of 7/,
  );
});

it('cuts a long text so that every token but the first is learned once', () => {
  const { examples } = encode([text('abcdefg')], { seqLen: 4 });
  expect(examples.map(({ ids }) => tokenizer.decode(ids))).toEqual(['abcd', 'defg', 'g<|endoftext|>']);
  const learned = examples.flatMap(({ labels }) => [...labels].filter((label) => label !== -100));
  expect(tokenizer.decode(learned)).toBe('bcdefg<|endoftext|>');
  expect(() => encode([text('abc')], { seqLen: 1 })).toThrow(/at least 2 tokens/);
});

it('fits the bundled dialogues, in both languages and without doubles', async () => {
  const records = await loadRecords(data('dialogues.json'));
  expect(records.length).toBeGreaterThanOrEqual(240);
  const { examples, truncated } = encode(records, { seqLen: 256 });
  expect([examples.length, truncated]).toEqual([records.length, 0]);
  const texts = examples.map(({ ids }) => tokenizer.decode(ids));
  expect(new Set(texts).size).toBe(texts.length);
  const chinese = texts.filter((one) => /\p{Script=Han}/u.test(one)).length;
  expect(Math.abs(chinese / texts.length - 0.5)).toBeLessThan(0.05);
});

it('reads the bundled corpus, 150 to 250 kB in both languages', async () => {
  const [record] = await loadRecords(data('corpus.txt'), { textBy: 'document' });
  if (record?.kind !== 'text') throw new Error('expected a text');
  const bytes = Buffer.byteLength(record.text);
  const chinese = Buffer.byteLength(record.text.replace(/[^\p{Script=Han}]/gu, ''));
  expect(bytes).toBeGreaterThan(150_000);
  expect(bytes).toBeLessThan(250_000);
  expect(chinese / bytes).toBeGreaterThan(0.3);
});
