// Any bytes in any format: the readers give records or a ShardloopError, nothing else, and never hang.
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { gzipSync } from 'node:zlib';
import { fc, test as property } from '@fast-check/vitest';
import { expect } from 'vitest';
import { ShardloopError } from '../../lib/core/errors.js';
import { ChatTemplate } from '../../lib/data/chat-template.js';
import { encodeRecords } from '../../lib/data/encode.js';
import { arrayElements, JsonSyntaxError } from '../../lib/data/json-scan.js';
import { type DataFormat, loadRecords } from '../../lib/data/records.js';
import { byteTokenizer, loadTokenizer } from '../../lib/data/tokenizer.js';
import { temporaryFolder } from '../temporary.js';

const dir = temporaryFolder('fuzz');
const runs = Number(process.env.SHARDLOOP_FUZZ_RUNS ?? 150);
const tokenizer = byteTokenizer();

async function survives(bytes: Uint8Array, format: DataFormat): Promise<void> {
  const file = join(dir, 'data');
  writeFileSync(file, bytes);
  try {
    encodeRecords(await loadRecords(file, { format }), tokenizer, { seqLen: 8 });
  } catch (error) {
    if (!(error instanceof ShardloopError)) throw error;
    expect(error.message).toMatch(/data:?\d*: /);
  }
}

/** A valid file with some bytes changed, cut out or put in. */
const damaged = (valid: Uint8Array, most = 4) =>
  fc
    .array(fc.tuple(fc.nat(valid.length), fc.nat(3), fc.uint8Array({ maxLength: 4 })), {
      minLength: 1,
      maxLength: most,
    })
    .map((edits) => {
      let bytes = Buffer.from(valid);
      for (const [at, removed, added] of edits) {
        bytes = Buffer.concat([bytes.subarray(0, at), added, bytes.subarray(Math.min(bytes.length, at + removed))]);
      }
      return bytes;
    });

const json = '[{"prompt": "a\\n", "response": "b"},\n {"messages": [{"role": "assistant", "content": [1.5e3, null]}]}]';
const csv = 'prompt,response\r\n"a, ""b""\nc",d\r\ne,f\r\n';
const parquet = readFileSync(fileURLToPath(new URL('../fixtures/data/messages.parquet', import.meta.url)));

const formats: [DataFormat, Uint8Array][] = [
  ['json', Buffer.from(json)],
  ['jsonl', Buffer.from(json.slice(1, -1).replace(',\n', '\n'))],
  ['jsonl', gzipSync('{"prompt": "a", "response": "b"}\n')],
  ['csv', Buffer.from(csv)],
  ['text', Buffer.from('one\r\n\r\ntwo 你好\n')],
  ['parquet', parquet],
];
for (const [i, [format, valid]] of formats.entries()) {
  property.prop([damaged(valid)], { numRuns: runs })(`damaged ${format} (${i})`, (bytes) => survives(bytes, format));
  property.prop([fc.uint8Array({ maxLength: 200 })], { numRuns: runs })(`random bytes as ${format} (${i})`, (bytes) =>
    survives(bytes, format),
  );
}

property.prop([fc.json({ maxDepth: 5 })], { numRuns: runs })('any JSON as records', async (text) => {
  await survives(Buffer.from(`[${text}]`), 'json');
  await survives(Buffer.from(text), 'jsonl');
});

property.prop(
  [fc.oneof(fc.json(), fc.json({ stringUnit: 'binary' }), fc.string(), damaged(Buffer.from(json)).map(String))],
  {
    numRuns: runs * 4,
  },
)('the JSON pass agrees with JSON.parse', (text) => {
  const array = `[${text}]`;
  let parsed: unknown;
  let elements: unknown;
  try {
    parsed = JSON.parse(array);
  } catch {
    parsed = null;
  }
  try {
    elements = [...arrayElements(array)].map(([start, end]) => JSON.parse(array.slice(start, end)));
  } catch (error) {
    if (!(error instanceof JsonSyntaxError)) throw error;
    elements = null;
  }
  expect(elements).toEqual(parsed);
});

property.prop([damaged(Buffer.from("{% for m in messages %}{{ m['content'] | trim }}{% endfor %}"))], {
  numRuns: runs,
})('damaged chat templates', (source) => {
  try {
    new ChatTemplate(tokenizer, String(source)).encode([{ role: 'assistant', content: 'x' }], { file: 'f', line: 1 });
  } catch (error) {
    expect(error).toBeInstanceOf(ShardloopError);
  }
});

property.prop(
  [damaged(Buffer.from('{"model":{"type":"BPE","vocab":{"a":0,"b":1},"merges":[["a","b"]]},"added_tokens":[]}'))],
  {
    numRuns: runs,
  },
)('damaged tokenizers', async (text) => {
  writeFileSync(join(dir, 'tokenizer.json'), text);
  try {
    (await loadTokenizer(dir)).encode('ab<');
  } catch (error) {
    expect(error).toBeInstanceOf(ShardloopError);
  }
});
