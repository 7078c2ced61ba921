// Chat templates: what is rendered, where the loss falls, and that a prompt's ids are those of training. Against Python:
// test/oracle/data.test.ts.
import { describe, expect, it } from 'vitest';
import { ChatTemplate, DEFAULT_CHAT_TEMPLATE } from '../../lib/data/chat-template.js';
import type { Message } from '../../lib/data/record-shape.js';
import { byteTokenizer } from '../../lib/data/tokenizer.js';

const source = { file: 'f.jsonl', line: 3 };
const tokenizer = byteTokenizer({ special: ['<|im_start|>', '<|im_end|>'] });
const CHATML =
  "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}" +
  "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}";
const talk: Message[] = [
  { role: 'system', content: 'S' },
  { role: 'user', content: 'A?' },
  { role: 'assistant', content: 'B' },
  { role: 'user', content: '好?' },
  { role: 'assistant', content: '😀' },
];
/** The text that the loss falls on, by the labels. */
const learned = (encoded: { ids: number[]; labels: number[] }) => {
  for (const [i, label] of encoded.labels.entries()) expect([-100, encoded.ids[i]]).toContain(label);
  return tokenizer.decode(encoded.labels.filter((label) => label !== -100));
};

describe('default template', () => {
  const template = new ChatTemplate(tokenizer);

  it('is prompt, newline, answer and end token, with loss on the last two', () => {
    const encoded = template.encode(talk.slice(1, 3), source);
    expect(tokenizer.decode(encoded.ids)).toBe('A?\nB<|endoftext|>');
    expect(learned(encoded)).toBe('B<|endoftext|>');
    expect(template.source).toBe(DEFAULT_CHAT_TEMPLATE);
  });

  it('is used when neither a template is given nor the tokenizer has one', () => {
    const own = byteTokenizer({ chatTemplate: CHATML });
    expect(new ChatTemplate(own).source).toBe(CHATML);
    expect(new ChatTemplate(own, null).source).toBe(DEFAULT_CHAT_TEMPLATE);
    expect(new ChatTemplate(own, 'x').source).toBe('x');
  });

  it('handles several turns', () => {
    const encoded = template.encode(talk, source);
    expect(tokenizer.decode(encoded.ids)).toBe('S\nA?\nB<|endoftext|>好?\n😀<|endoftext|>');
    expect(learned(encoded)).toBe('B<|endoftext|>😀<|endoftext|>');
  });

  it('leaves out answers of weight 0', () => {
    const encoded = template.encode([...talk.slice(1, 2), { ...talk[2]!, weight: 0 }, ...talk.slice(3)], source);
    expect(learned(encoded)).toBe('😀<|endoftext|>');
  });

  it('is what its Jinja source renders', () => {
    expect(tokenizer.decode(template.encode(talk, source).ids)).toBe(template.render(talk));
    const spelled = new ChatTemplate(tokenizer, `${DEFAULT_CHAT_TEMPLATE}{# #}`);
    const weighed = talk.map((message, i) => (i === 2 ? { ...message, weight: 0 } : message));
    for (const messages of [talk, weighed]) {
      expect(template.encode(messages, source)).toEqual(spelled.encode(messages, source));
    }
  });

  it('gives a prompt the ids that it has in training', () => {
    expect(template.encodePrompt('A?')).toEqual(template.encode(talk.slice(1, 3), source).ids.slice(0, 3));
    const whole = template.encode(talk, source).ids;
    const prompt = template.encodePrompt(talk.slice(0, 4));
    expect(whole.slice(0, prompt.length)).toEqual(prompt);
  });

  it('refuses tool calls, which it cannot write', () => {
    const call: Message = { role: 'assistant', content: '', tool_calls: [{}] };
    expect(() => template.encode([call], source)).toThrow(/f\.jsonl:3: .*a chat template that knows tools/);
  });
});

describe('a template without generation blocks', () => {
  const template = new ChatTemplate(tokenizer, CHATML);

  it('has its answers found by rendering up to them', () => {
    const encoded = template.encode(talk, source);
    expect(tokenizer.decode(encoded.ids)).toBe(template.render(talk));
    expect(learned(encoded)).toBe('B<|im_end|>😀<|im_end|>');
  });

  it('leaves out answers of weight 0', () => {
    const weighed = talk.map((message, i) => (i === 4 ? { ...message, weight: 0 } : message));
    expect(learned(template.encode(weighed, source))).toBe('B<|im_end|>');
  });

  it('writes the opening of the answer for generation', () => {
    expect(tokenizer.decode(template.encodePrompt('A?'))).toBe(
      '<|im_start|>user\nA?<|im_end|>\n<|im_start|>assistant\n',
    );
  });

  it('is refused when what it writes depends on later messages', () => {
    const changing = new ChatTemplate(tokenizer, '{{ messages | length }}{{ messages[-1].content }}');
    expect(() => changing.encode(talk, source)).toThrow(/f\.jsonl:3: .*changes with later messages.*generation/);
  });
});

describe('a template with generation blocks', () => {
  it('has its answers marked by them, whitespace control included', () => {
    const marked =
      "{% for m in messages %}\n  {%- if m.role == 'assistant' %}\n    {% generation %}\n{{ m.content }}!\n    {%- endgeneration -%}\n  " +
      '{%- else %}\n{{ m.content }}|\n{%- endif %}\n{% endfor %}';
    const template = new ChatTemplate(tokenizer, marked);
    const encoded = template.encode(talk, source);
    expect(tokenizer.decode(encoded.ids)).toBe(template.render(talk));
    expect(tokenizer.decode(encoded.ids)).toBe('S|A?|B!好?|😀!');
    expect(learned(encoded)).toBe('B!😀!');
  });

  it('is refused when no block is reached, or they are nested', () => {
    const none = new ChatTemplate(tokenizer, '{% if false %}{% generation %}a{% endgeneration %}{% endif %}b');
    expect(() => none.encode(talk, source)).toThrow(/no {% generation %} block/);
    const nested = '{% generation %}a{% generation %}b{% endgeneration %}{% endgeneration %}';
    expect(() => new ChatTemplate(tokenizer, nested).encode(talk, source)).toThrow(/nested/);
  });
});

it('passes tools and special tokens to the template', () => {
  const template = new ChatTemplate(tokenizer, '{{ tools[0].name }}{{ eos_token }}{{ pad_token }}{{ bos_token }}');
  expect(template.render([], { tools: [{ name: 'f' }] })).toBe('f<|endoftext|><|pad|><|endoftext|>');
});

it('reports wrong Jinja and refusals of the template', () => {
  expect(() => new ChatTemplate(tokenizer, '{% if %}')).toThrow(expect.objectContaining({ code: 'BAD_CONFIG' }));
  const strict = new ChatTemplate(tokenizer, "{{ raise_exception('no system role') }}");
  const refused = expect.objectContaining({ code: 'BAD_RECORD', message: expect.stringContaining('no system role') });
  expect(() => strict.encode(talk, source)).toThrow(refused);
  expect(() => strict.encodePrompt('x')).toThrow(expect.objectContaining({ code: 'BAD_ARGUMENT' }));
});
