// What a record may look like and how it becomes one of two things: a conversation (prompt/response, OpenAI messages,
// Alpaca) or a text. Says exactly what is wrong with a record that is neither. Not here: reading files, tokens.
import { describe, ShardloopError } from '../core/errors.js';

/** Where a record stands: the file, and its line there, from 1 (the row, in Parquet files). */
export interface RecordSource {
  readonly file: string;
  readonly line: number;
}

/** One message of a conversation. Further OpenAI fields such as tool_calls travel on to the chat template. */
export interface Message {
  readonly role: 'system' | 'developer' | 'user' | 'assistant' | 'tool';
  readonly content: string;
  /** 0 leaves an assistant message out of the loss. */
  readonly weight?: number;
  readonly [key: string]: unknown;
}

/** A conversation that ends with an assistant's message; loss on the assistant's messages only. */
export interface ChatRecord {
  readonly kind: 'chat';
  readonly messages: readonly Message[];
  readonly source: RecordSource;
}

/** A text; loss on all of it. */
export interface TextRecord {
  readonly kind: 'text';
  readonly text: string;
  readonly source: RecordSource;
}

/** A record of a data file, whatever the file's format was. */
export type DataRecord = ChatRecord | TextRecord;

/** The shapes that a record of a JSON, JSONL, CSV or Parquet file may have. */
export type RecordShape = 'messages' | 'prompt/response' | 'alpaca' | 'text';

const EXPECTED =
  'an object with "prompt" and "response", with "messages", with "instruction" and "output" (Alpaca), or with "text"';
const ROLES: readonly string[] = ['system', 'developer', 'user', 'assistant', 'tool'];

/** The error of a bad record: `file:line: expected ..., got ...`. */
export function badRecord(source: RecordSource, message: string, cause?: unknown): ShardloopError {
  return new ShardloopError('BAD_RECORD', `${source.file}:${source.line}: ${message}`, { cause });
}

/** The shape that an object's keys announce, or null. Extra keys are nobody's business (ids, sources, scores). */
export function shapeOf(value: object): RecordShape | null {
  const has = (key: string) => Object.hasOwn(value, key);
  if (has('messages')) return 'messages';
  if (has('prompt') && has('response')) return 'prompt/response';
  if (has('instruction') && has('output')) return 'alpaca';
  if (has('text')) return 'text';
  return null;
}

/** Makes a record of a parsed value, or throws BAD_RECORD with its place, what was expected and what came. */
export function parseRecord(value: unknown, source: RecordSource): { record: DataRecord; shape: RecordShape } {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) {
    throw badRecord(source, `expected ${EXPECTED}, got ${describe(value)}`);
  }
  const shape = shapeOf(value);
  if (shape === null) throw badRecord(source, `expected ${EXPECTED}, got ${keysOf(value)}`);
  return { record: READERS[shape](value as Fields, source), shape };
}

type Fields = Record<string, unknown>;

const READERS: Record<RecordShape, (fields: Fields, source: RecordSource) => DataRecord> = {
  'prompt/response': (fields, source) =>
    exchange(text(fields, 'prompt', source), answer(text(fields, 'response', source), 'response', source), source),
  alpaca(fields, source) {
    const instruction = text(fields, 'instruction', source);
    const absent = fields.input === undefined || fields.input === null;
    const input = absent ? '' : text(fields, 'input', source);
    const prompt = input === '' ? instruction : `${instruction}\n${input}`;
    return exchange(prompt, answer(text(fields, 'output', source), 'output', source), source);
  },
  messages: (fields, source) => ({ kind: 'chat', messages: readMessages(fields.messages, source), source }),
  text: (fields, source) => ({ kind: 'text', text: answer(text(fields, 'text', source), 'text', source), source }),
};

function exchange(prompt: string, response: string, source: RecordSource): ChatRecord {
  return {
    kind: 'chat',
    messages: [
      { role: 'user', content: prompt },
      { role: 'assistant', content: response },
    ],
    source,
  };
}

function readMessages(value: unknown, source: RecordSource): Message[] {
  if (!Array.isArray(value)) throw badRecord(source, `expected "messages" to be an array, got ${describe(value)}`);
  if (value.length === 0) throw badRecord(source, 'expected "messages" to hold at least one message, got none');
  const messages = value.map((entry: unknown, i) => readMessage(entry, `messages[${i}]`, source));
  const last = messages.at(-1)!;
  if (last.role !== 'assistant') {
    throw badRecord(source, `expected the last message to be the assistant's, got the role "${last.role}"`);
  }
  if (!messages.some((message) => message.role === 'assistant' && message.weight !== 0)) {
    throw badRecord(source, 'expected an assistant message to learn from, got only ones of weight 0');
  }
  return messages;
}

function readMessage(value: unknown, name: string, source: RecordSource): Message {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) {
    throw badRecord(source, `expected ${name} to be an object with "role" and "content", got ${describe(value)}`);
  }
  const fields = value as Fields;
  const role = fields.role;
  if (typeof role !== 'string' || !ROLES.includes(role)) {
    throw badRecord(source, `expected ${name}.role to be one of ${ROLES.join(', ')}, got ${describe(role)}`);
  }
  const calls = Array.isArray(fields.tool_calls) && fields.tool_calls.length > 0;
  const content = readContent(fields.content, calls, `${name}.content`, source);
  if (role === 'assistant' && !calls) answer(content, `${name}.content`, source);
  const weight = fields.weight === undefined || fields.weight === null ? undefined : Number(fields.weight);
  if (weight !== undefined && weight !== 0 && weight !== 1) {
    throw badRecord(source, `expected ${name}.weight to be 0 or 1, got ${describe(fields.weight)}`);
  }
  const { weight: _, ...rest } = fields;
  return { ...rest, role: role as Message['role'], content, ...(weight === undefined ? {} : { weight }) };
}

/** OpenAI's content: a string, or an array of text parts; absent only beside tool calls. */
function readContent(value: unknown, calls: boolean, name: string, source: RecordSource): string {
  if (calls && (value === null || value === undefined)) return '';
  if (!Array.isArray(value)) return text({ [name]: value }, name, source);
  const parts = value.map((part: unknown, i) => {
    const fields = (typeof part === 'object' && part !== null ? part : {}) as Fields;
    if (fields.type !== 'text') {
      const got = typeof fields.type === 'string' ? `a part of type "${fields.type}"` : describe(part);
      throw badRecord(source, `expected ${name}[${i}] to be a text part, got ${got}`);
    }
    return text(fields, 'text', source);
  });
  return parts.join('');
}

/** A string field, well-formed: no half of a surrogate pair, which no tokenizer can take. */
function text(fields: Fields, key: string, source: RecordSource): string {
  const value = fields[key];
  if (typeof value !== 'string') throw badRecord(source, `expected "${key}" to be a string, got ${describe(value)}`);
  if (/\p{Surrogate}/u.test(value)) {
    throw badRecord(source, `expected "${key}" to be valid Unicode, got half of a surrogate pair`);
  }
  return value;
}

/** What the loss is on must not be empty. */
function answer(value: string, key: string, source: RecordSource): string {
  if (value.trim() === '') throw badRecord(source, `expected "${key}" not to be empty, got ${describe(value)}`);
  return value;
}

function keysOf(value: object): string {
  const keys = Object.keys(value);
  if (keys.length === 0) return 'an object without keys';
  const shown = keys.slice(0, 8).map((key) => JSON.stringify(key.length > 40 ? `${key.slice(0, 40)}...` : key));
  return `an object with ${shown.join(', ')}${keys.length > 8 ? ` and ${keys.length - 8} more` : ''}`;
}
