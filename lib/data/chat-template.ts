// Conversations to token ids: renders a Jinja chat template and finds which parts of it the assistant wrote, so that the
// loss falls on them alone. The parts come from the template's {% generation %} blocks, or else from rendering the
// conversation up to each answer. Text is encoded part by part: a prompt gives the same ids here and when generating.
import { Template } from '@huggingface/jinja';
import { ShardloopError } from '../core/errors.js';
import { badRecord, type Message, type RecordSource } from './record-shape.js';
import type { Tokenizer } from './tokenizer-class.js';

/**
 * The template of models that have none: each prompt and a newline, each answer and the end token, with loss on the
 * answer and the end token. In Python's transformers it gives the same text and the same assistant mask.
 */
export const DEFAULT_CHAT_TEMPLATE =
  "{% for message in messages %}{% if message['role'] == 'assistant' %}" +
  "{% generation %}{{ message['content'] + eos_token }}{% endgeneration %}" +
  "{% else %}{{ message['content'] + '\\n' }}{% endif %}{% endfor %}";

/** A piece of a rendered conversation; `learn` where the assistant wrote it. */
export interface Segment {
  readonly text: string;
  readonly learn: boolean;
}

const BEGIN = '\u{f0000}begin\u{f0000}'; // private-use characters that mark the assistant's parts while rendering
const END = '\u{f0000}end\u{f0000}';

const NO_TOOLS = 'expected a chat template that knows tools for messages with tool_calls, got the default template';

function callsTools({ tool_calls: calls }: Message): boolean {
  return Array.isArray(calls) && calls.length > 0;
}

/** A chat template ready for use with one tokenizer. Throws BAD_CONFIG when the template's syntax is wrong. */
export class ChatTemplate {
  /** The template's Jinja source. */
  readonly source: string;
  readonly #plain: Template;
  readonly #marked: Template | null;
  readonly #tokenizer: Tokenizer;

  /** @param source Jinja source; without it the tokenizer's own template, else {@link DEFAULT_CHAT_TEMPLATE}. */
  constructor(tokenizer: Tokenizer, source: string | null = tokenizer.chatTemplate) {
    this.source = source ?? DEFAULT_CHAT_TEMPLATE;
    this.#tokenizer = tokenizer;
    const marked = markGenerations(this.source);
    try {
      this.#plain = new Template(this.source);
      this.#marked = marked === null ? null : new Template(marked);
    } catch (error) {
      throw new ShardloopError('BAD_CONFIG', `the chat template is not valid Jinja: ${(error as Error).message}`, {
        cause: error,
      });
    }
  }

  /** The text of a conversation; with `generate`, up to where the assistant's next answer begins. */
  render(messages: readonly Message[], options: { generate?: boolean; tools?: readonly unknown[] } = {}): string {
    return this.#render(this.#plain, messages, options);
  }

  /** The text of a conversation in pieces, the assistant's marked. `source` is named in errors (BAD_RECORD). */
  segments(messages: readonly Message[], source: RecordSource, tools?: readonly unknown[]): Segment[] {
    if (this.source === DEFAULT_CHAT_TEMPLATE) return this.#defaultSegments(messages, source);
    try {
      const spans = this.#marked
        ? this.#markedSpans(messages, tools)
        : this.#prefixSpans(this.render(messages, { tools }), messages, tools);
      return cut(spans.text, spans.spans);
    } catch (error) {
      throw badRecord(source, `the chat template cannot render it: ${(error as Error).message}`, error);
    }
  }

  /** What the default template renders, without Jinja, which takes longer than the rest of reading a record. */
  #defaultSegments(messages: readonly Message[], source: RecordSource): Segment[] {
    if (messages.some(callsTools)) throw badRecord(source, NO_TOOLS);
    const segments = messages.map(({ role, content, weight }) =>
      role === 'assistant'
        ? { text: content + (this.#tokenizer.eosToken ?? ''), learn: weight !== 0 }
        : { text: `${content}\n`, learn: false },
    );
    return merge(segments);
  }

  /** Ids and labels of a conversation: labels equal ids where the loss falls, -100 elsewhere. */
  encode(
    messages: readonly Message[],
    source: RecordSource,
    tools?: readonly unknown[],
  ): { ids: number[]; labels: number[] } {
    const ids: number[] = [];
    const labels: number[] = [];
    for (const { text, learn } of this.segments(messages, source, tools)) {
      for (const id of this.#encodePiece(text, ids.length === 0)) {
        ids.push(id);
        labels.push(learn ? id : -100);
      }
    }
    return { ids, labels };
  }

  /** The ids that a model is given to write the next answer: what {@link encode} puts before that answer. */
  encodePrompt(messages: readonly Message[] | string, tools?: readonly unknown[]): number[] {
    const list: readonly Message[] = typeof messages === 'string' ? [{ role: 'user', content: messages }] : messages;
    let text: string;
    try {
      text = this.render(list, { generate: true, tools });
      const answered = list.map((message) => message.role).lastIndexOf('assistant') + 1;
      if (answered === 0) return this.#encodePiece(text, true);
      const before = this.segments(list.slice(0, answered), { file: 'prompt', line: 1 }, tools);
      const known = before.map((segment) => segment.text).join('');
      if (!text.startsWith(known)) return this.#encodePiece(text, true);
      const pieces = merge([...before, { text: text.slice(known.length), learn: false }]);
      return pieces.flatMap((piece, i) => this.#encodePiece(piece.text, i === 0));
    } catch (error) {
      if (error instanceof ShardloopError) throw error;
      const message = `the chat template cannot render the prompt: ${(error as Error).message}`;
      throw new ShardloopError('BAD_ARGUMENT', message, { cause: error });
    }
  }

  #encodePiece(text: string, first: boolean): number[] {
    if (!first) return this.#tokenizer.encodeContinuation(text);
    const ids = this.#tokenizer.encode(text, { specialTokens: false });
    return this.source === DEFAULT_CHAT_TEMPLATE && startsWithBos(this.#tokenizer)
      ? [this.#tokenizer.bosId!, ...ids]
      : ids;
  }

  #render(
    template: Template,
    messages: readonly Message[],
    options: { generate?: boolean; tools?: readonly unknown[] | undefined },
  ): string {
    const { bosToken, eosToken, unkToken } = this.#tokenizer;
    if (this.source === DEFAULT_CHAT_TEMPLATE && messages.some(callsTools)) throw new Error(NO_TOOLS);
    const text: unknown = template.render({
      messages: messages.map(({ weight: _, ...message }) => message),
      add_generation_prompt: options.generate ?? false,
      bos_token: bosToken ?? '',
      eos_token: eosToken ?? '',
      unk_token: unkToken ?? '',
      pad_token: this.#tokenizer.idToToken(this.#tokenizer.padId) ?? '',
      tools: options.tools ?? null,
      documents: null,
    });
    return String(text);
  }

  /** Spans between the marks that stand for {% generation %}. */
  #markedSpans(messages: readonly Message[], tools?: readonly unknown[]): Spans {
    const rendered = this.#render(this.#marked!, messages, { tools });
    const answers = messages.filter((message) => message.role === 'assistant');
    const parts = rendered.split(BEGIN);
    let text = parts[0]!;
    const spans: [number, number][] = [];
    for (const [i, part] of parts.slice(1).entries()) {
      const [inside, outside, more] = part.split(END);
      if (outside === undefined || more !== undefined) throw new Error('its {% generation %} blocks are nested');
      const skipped = parts.length - 1 === answers.length && answers[i]!.weight === 0;
      if (!skipped) spans.push([text.length, text.length + inside!.length]);
      text += inside! + outside;
    }
    if (spans.length === 0) throw new Error('no {% generation %} block of it was reached');
    return { text, spans };
  }

  /** Spans from rendering the conversation up to each answer and with it. */
  #prefixSpans(text: string, messages: readonly Message[], tools?: readonly unknown[]): Spans {
    const spans: [number, number][] = [];
    for (const [i, message] of messages.entries()) {
      if (message.role !== 'assistant' || message.weight === 0) continue;
      const before = this.render(messages.slice(0, i), { generate: true, tools });
      const after = i === messages.length - 1 ? text : this.render(messages.slice(0, i + 1), { tools });
      if (!text.startsWith(after)) {
        throw new Error(
          `what it writes for message ${i} changes with later messages, so that the answers cannot be told apart; ` +
            'mark them in the template with {% generation %} and {% endgeneration %}',
        );
      }
      const start = commonPrefix(before, after);
      const end = start + withoutTrailingSpace(after.slice(start), this.#tokenizer.specialTokens).length;
      if (end > start) spans.push([start, end]);
    }
    return { text, spans };
  }
}

interface Spans {
  text: string;
  spans: [number, number][];
}

function cut(text: string, spans: readonly [number, number][]): Segment[] {
  const segments: Segment[] = [];
  let at = 0;
  for (const [start, end] of spans) {
    segments.push({ text: text.slice(at, start), learn: false }, { text: text.slice(start, end), learn: true });
    at = end;
  }
  segments.push({ text: text.slice(at), learn: false });
  return segments.filter((segment) => segment.text !== '');
}

/** Joins neighbours of one kind, so that they are encoded together as in training. */
function merge(segments: readonly Segment[]): Segment[] {
  const merged: Segment[] = [];
  for (const segment of segments) {
    const last = merged.at(-1);
    if (segment.text === '') continue;
    if (last && last.learn === segment.learn) merged[merged.length - 1] = { ...last, text: last.text + segment.text };
    else merged.push(segment);
  }
  return merged;
}

function commonPrefix(a: string, b: string): number {
  let i = 0;
  while (i < a.length && a[i] === b[i]) i++;
  if (i > 0 && i < b.length && /[\ud800-\udbff]/.test(b[i - 1]!)) i--; // not through the middle of a character
  return i;
}

/** A template's newline after `<|im_end|>` and the like is not something to learn; the model stops before it. */
function withoutTrailingSpace(text: string, special: readonly string[]): string {
  const trimmed = text.trimEnd();
  return special.some((token) => trimmed.endsWith(token)) ? trimmed : text;
}

/** The template with marks written out where {% generation %} begins and ends, or null when it has none. */
function markGenerations(source: string): string | null {
  const tag = /\{%(-?)\s*(end)?generation\s*(-?)%\}/g;
  if (!tag.test(source)) return null;
  return source.replace(
    tag,
    (_, left: string, end: string | undefined, right: string) =>
      `{%${left} if true %}{{ "${end ? END : BEGIN}" }}{% endif ${right}%}`,
  );
}

function startsWithBos(tokenizer: Tokenizer): boolean {
  return tokenizer.bosId !== null && tokenizer.encode('')[0] === tokenizer.bosId;
}
