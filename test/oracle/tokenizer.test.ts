// Token ids, decodings and chat templates against Python's tokenizers and transformers: the byte tokenizer as we save it,
// and a BPE and a Unigram tokenizer that Python trains here on the bundled corpus.
import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { describe, expect, it } from 'vitest';
import { ChatTemplate, DEFAULT_CHAT_TEMPLATE } from '../../lib/data/chat-template.js';
import type { Message } from '../../lib/data/record-shape.js';
import { byteTokenizer, loadTokenizer } from '../../lib/data/tokenizer.js';
import { temporaryFolder } from '../temporary.js';
import { python } from './python.js';

const corpus = readFileSync(fileURLToPath(new URL('../../examples/data/corpus.txt', import.meta.url)), 'utf8');
const folder = () => temporaryFolder('oracle-tokenizer');

const TEXTS: string[] = [
  'hello',
  'Hello, world!',
  ' leading',
  'trailing ',
  '  two  spaces  ',
  '\ttab\tbed',
  'line\nbreak',
  'crlf\r\nline',
  '\n\n\n',
  ' ',
  '   ',
  'a\u00a0b\u2003c\u3000d',
  '\u200bzero\u200dwidth\u200c',
  '\ufeffmark',
  'nul\u0000byte',
  "it's we'll I'd they've I'M",
  'CamelCase snake_case kebab-case',
  '3.14159 1,000,000 ½ ² Ⅷ ٣',
  'x=y+z*(a-b)/{c}[d]',
  'https://example.org/a?b=c&d=%20#e',
  'me@example.org',
  'naïve café résumé',
  'cafe\u0301 e\u0301',
  'ÀÉÎÕÜ ßẞ İı',
  'ﬁ ﬂ ①',
  '你好',
  '天空是什么颜色?',
  '天空是蓝色的,因为空气最容易散射蓝光。',
  '中文English混合text',
  '“引号”——破折号……',
  '𠮷野家 𪚥',
  'こんにちは カタカナ',
  '안녕하세요',
  'привет мир',
  'γειά σου',
  'שלום עולם',
  'مرحبا بالعالم',
  'สวัสดีชาวโลก',
  'नमस्ते दुनिया',
  '😀',
  '👨‍👩‍👧‍👦 family',
  '👍🏽 skin',
  '🇨🇳🇺🇸',
  '❤️ vs ❤',
  'a😀b😀c',
  '<|endoftext|>',
  'a<|endoftext|>b',
  '<|endoftext|><|pad|> x',
  '<|end',
  'the the the the the',
  'aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa',
  '!!!???...',
  'One day Mia walked to the garden.',
  '小明有三个苹果。3 + 4 等于 7。',
];

interface Encoded {
  ids: number[][];
  decoded: string[];
  skipped: string[];
  size: number;
  special: (number | null)[];
}

async function compare(dir: string, texts: readonly string[], slow = false): Promise<void> {
  const { value: theirs } = await python<Encoded>('tokenizer', { do: 'encode', dir, texts, slow });
  const ours = await loadTokenizer(dir);
  for (const [i, text] of texts.entries()) {
    expect([text, ours.encode(text)]).toEqual([text, theirs.ids[i]]);
    expect([text, ours.decode(theirs.ids[i]!)]).toEqual([text, theirs.decoded[i]]);
    expect([text, ours.decode(theirs.ids[i]!, { skipSpecialTokens: true })]).toEqual([text, theirs.skipped[i]]);
  }
  expect(ours.vocabSize).toBe(theirs.size);
  expect([ours.bosId, ours.eosId]).toEqual(theirs.special.slice(0, 2));
  if (theirs.special[2] !== null) expect(ours.padId).toBe(theirs.special[2]);
}

it('has 54 texts', () => expect(new Set(TEXTS).size).toBe(54));

it('the byte tokenizer that we save', async () => {
  const dir = folder();
  await byteTokenizer({ special: ['<|user|>'] }).save(dir);
  await compare(dir, [...TEXTS, '<|user|>hi<|user|>', corpus.slice(0, 4000)]);
});

describe.each(['bpe', 'vocab-and-merges', 'unigram'])('a %s tokenizer that Python trained', (kind) => {
  const dir = folder();

  it('gives the same ids', async () => {
    await python('tokenizer', { do: 'train', kind, dir, texts: corpus.split('\n') });
    await compare(dir, [...TEXTS, corpus.slice(0, 4000)], kind === 'vocab-and-merges');
  });

  it('gives the same ids after we saved it', async () => {
    const copy = folder();
    await (await loadTokenizer(dir)).save(copy);
    await compare(copy, TEXTS, kind === 'vocab-and-merges');
  });
});

const CHATML =
  "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}" +
  "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}";
const MARKED = `{{ bos_token }}
{%- for message in messages %}
    {%- if message.role == 'system' %}
        {{- '[' ~ message.content | trim ~ ']\\n' }}
    {%- elif message.role == 'assistant' %}
        {% generation %}
{{ message.content }}{{ eos_token }}
        {%- endgeneration %}

    {%- else %}
        {{- 'Q' ~ loop.index0 ~ ': ' ~ message['content'] }}
    {% endif %}
{%- endfor %}
{%- if tools %}{{ tools | tojson }}{% endif %}
{%- if add_generation_prompt %}A: {% endif %}`;
const CONVERSATIONS: Message[][] = [
  [
    { role: 'user', content: 'What is 2 + 3?' },
    { role: 'assistant', content: '2 + 3 is 5.' },
  ],
  [
    { role: 'system', content: '  Be kind.\n' },
    { role: 'user', content: '天空是什么颜色?' },
    { role: 'assistant', content: '蓝色。😀' },
    { role: 'user', content: 'Why? "quotes" & <tags>' },
    { role: 'assistant', content: 'Air.\nLight.' },
  ],
];

describe.each([
  ['ChatML', CHATML, undefined],
  ['generation blocks and white space', MARKED, undefined],
  ['tools', MARKED, [{ name: 'add', parameters: { a: 1, b: [true, null, 'é'] } }]],
  ['the default template', DEFAULT_CHAT_TEMPLATE, undefined],
])('chat template: %s', (_, template, tools) => {
  it('gives the same text, ids and mask', async () => {
    const dir = folder();
    const tokenizer = byteTokenizer({ special: ['<|im_start|>', '<|im_end|>'] });
    await tokenizer.save(dir, { chatTemplate: template });
    const { value } = await python<{ text: string; ids: number[]; prompt: number[]; mask: number[] | null }[]>(
      'tokenizer',
      {
        do: 'chat',
        dir,
        template,
        tools,
        conversations: CONVERSATIONS,
      },
    );
    const ours = new ChatTemplate(await loadTokenizer(dir));
    expect(ours.source).toBe(template);
    for (const [i, messages] of CONVERSATIONS.entries()) {
      const theirs = value[i]!;
      expect(ours.render(messages, { tools })).toBe(theirs.text);
      const { ids, labels } = ours.encode(messages, { file: 'f', line: 1 }, tools);
      expect(ids).toEqual(theirs.ids);
      if (theirs.mask) expect(labels.map((label) => Number(label !== -100))).toEqual(theirs.mask);
      expect(ours.encodePrompt(messages, tools)).toEqual(theirs.prompt);
    }
  });
});
