// Reading data files: formats, shapes, and above all what is said about bad records, with file and line.
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { gzipSync } from 'node:zlib';
import { describe, expect, it } from 'vitest';
import { formatOf, loadRecords, type ReadOptions } from '../../lib/data/records.js';
import { temporaryFolder } from '../temporary.js';

const dir = temporaryFolder('records');
let count = 0;
const write = (name: string, content: string | Uint8Array) => {
  const path = join(dir, `${count++}-${name}`);
  writeFileSync(path, content);
  return path;
};
const read = (name: string, content: string | Uint8Array, options?: ReadOptions) =>
  loadRecords(write(name, content), options);
/** The record's texts in short form, and its line. */
const brief = async (name: string, content: string | Uint8Array, options?: ReadOptions) =>
  (await read(name, content, options)).map((record) => {
    const texts = record.kind === 'text' ? [record.text] : record.messages.map((message) => message.content);
    return [record.source.line, ...texts];
  });
const fails = async (
  name: string,
  content: string | Uint8Array,
  line: number,
  message: RegExp,
  options?: ReadOptions,
) => {
  const path = write(name, content);
  const error = await loadRecords(path, options).then(
    () => new Error('it was read'),
    (reason: Error) => reason,
  );
  expect(error.message.startsWith(`${path}:${line}: `) ? '' : error.message).toBe('');
  expect(error.message).toMatch(message);
  expect(error).toMatchObject({ code: 'BAD_RECORD' });
};
const P = '{"prompt": "p", "response": "r"}';

describe('shapes', () => {
  it('reads prompt and response, ignoring other keys', async () => {
    expect(await read('a.json', '[{"prompt": "p", "response": "r", "id": 7}]')).toMatchObject([
      {
        kind: 'chat',
        messages: [
          { role: 'user', content: 'p' },
          { role: 'assistant', content: 'r' },
        ],
      },
    ]);
  });

  it('reads Alpaca with and without input', async () => {
    const lines =
      '{"instruction":"i","input":"n","output":"o"}\n{"instruction":"i","input":"","output":"o"}\n' +
      '{"instruction":"i","output":"o"}\n{"instruction":"i","input":null,"output":"o"}';
    expect(await brief('a.jsonl', lines)).toEqual([
      [1, 'i\nn', 'o'],
      [2, 'i', 'o'],
      [3, 'i', 'o'],
      [4, 'i', 'o'],
    ]);
  });

  it('reads OpenAI messages: parts, weights, tool calls', async () => {
    const messages = [
      { role: 'system', content: 's' },
      {
        role: 'user',
        content: [
          { type: 'text', text: 'a' },
          { type: 'text', text: 'b' },
        ],
        name: 'me',
      },
      { role: 'assistant', content: null, tool_calls: [{ id: '1' }], weight: 0 },
      { role: 'tool', content: 't', tool_call_id: '1' },
      { role: 'assistant', content: 'r' },
    ];
    const [record] = await read('a.jsonl', JSON.stringify({ messages }));
    expect(record).toMatchObject({
      messages: [
        { role: 'system', content: 's' },
        { role: 'user', content: 'ab', name: 'me' },
        { role: 'assistant', content: '', tool_calls: [{ id: '1' }], weight: 0 },
        { role: 'tool', tool_call_id: '1' },
        { role: 'assistant', content: 'r' },
      ],
    });
  });

  it('reads texts', async () => {
    expect(await read('a.json', '[{"text": "t"}]')).toMatchObject([{ kind: 'text', text: 't' }]);
  });

  it.each([
    ['a number', '3', /expected an object .* got 3/],
    ['an array', '[1]', /got an array of 1/],
    ['null', 'null', /got null/],
    ['unknown keys', '{"promt": "p", "response": "r"}', /got an object with "promt", "response"/],
    ['no keys', '{}', /without keys/],
    ['a number as prompt', '{"prompt": 3, "response": "r"}', /"prompt" to be a string, got 3/],
    ['null as response', '{"prompt": "p", "response": null}', /"response" to be a string, got null/],
    ['an empty response', '{"prompt": "p", "response": " \\n"}', /"response" not to be empty/],
    ['half a surrogate pair', '{"prompt": "\\ud83d", "response": "r"}', /valid Unicode/],
    ['Alpaca without words', '{"instruction": "i", "output": ""}', /"output" not to be empty/],
    ['an input that is no string', '{"instruction": "i", "input": 1, "output": "o"}', /"input" to be a string, got 1/],
    ['an empty text', '{"text": ""}', /"text" not to be empty/],
    ['messages that are no array', '{"messages": "x"}', /"messages" to be an array, got "x"/],
    ['no messages', '{"messages": []}', /at least one message/],
    ['a message that is no object', '{"messages": [1]}', /messages\[0\] to be an object .* got 1/],
    ['an unknown role', '{"messages": [{"role": "bot", "content": "x"}]}', /messages\[0\]\.role .* got "bot"/],
    ['no content', '{"messages": [{"role": "assistant"}]}', /messages\[0\]\.content" to be a string, got undefined/],
    [
      'an image',
      '{"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}',
      /text part, got .*"image_url"/,
    ],
    ['no answer at the end', '{"messages": [{"role": "user", "content": "x"}]}', /assistant's, got the role "user"/],
    ['an empty answer', '{"messages": [{"role": "assistant", "content": ""}]}', /not to be empty/],
    [
      'a wrong weight',
      '{"messages": [{"role": "assistant", "content": "x", "weight": 2}]}',
      /weight to be 0 or 1, got 2/,
    ],
    ['only weight 0', '{"messages": [{"role": "assistant", "content": "x", "weight": 0}]}', /only ones of weight 0/],
  ])('refuses %s', async (_, line, message) => {
    await fails('a.jsonl', `\n${line}\n`, 2, message);
    await fails('a.json', `[\n\n${line}]`, 3, message);
  });

  it('refuses mixed shapes and names the first', async () => {
    await fails('a.jsonl', `${P}\n{"text": "t"}`, 2, /expected prompt\/response as in line 1, got text/);
  });
});

describe('JSON', () => {
  it('knows the line of every record', async () => {
    const text = `\ufeff[\r\n${P},\r\n\r\n{"prompt":\n"a\\"]}",\n"response": "b"}\n, ${P}\n]\n`;
    expect(await brief('a.json', text)).toEqual([
      [2, 'p', 'r'],
      [4, 'a"]}', 'b'],
      [7, 'p', 'r'],
    ]);
  });

  it.each([
    ['', 1, /at least one record, got none/],
    [' \n', 1, /at least one record/],
    ['[]', 1, /at least one record/],
    ['{"prompt": 1}', 1, /expected an array of records, "\[", got .*format jsonl/],
    [`[${P}`, 1, /"," or "\]" after a record, got the end/],
    [`[${P}\n${P}]`, 2, /"," or "\]" after a record/],
    [`[${P},\n]`, 2, /a record after ","/],
    [`[${P}]\n\nx`, 3, /the end of the file after "\]", got "x"/],
    ['[{"a" 1}]', 1, /":" after a key, got "1}]"/],
    ["[\n{'a': 1}]", 2, /key in double quotes/],
    ['[{"a": 01}]', 1, /"," or "}"/],
    ['[{"a": tru}]', 1, /a value/],
    ['[\n"a\nb"]', 2, /control character/],
    ['["\\x"]', 1, /an escape/],
    ['["abc', 1, /closing double quote/],
    [`[${'['.repeat(600)}`, 1, /at most 512 nested/],
  ])('refuses %j', async (text, line, message) => {
    await fails('a.json', text, line, message);
  });

  it('refuses what is not UTF-8, with its line', async () => {
    await fails(
      'a.json',
      Buffer.concat([Buffer.from(`[\n${P},\n"`), Buffer.from([0xff]), Buffer.from('"]')]),
      3,
      /0xff/,
    );
    await fails('a.json', Buffer.concat([Buffer.from(`[\n"`), Buffer.from([0xe5, 0xa5])]), 2, /UTF-8/);
  });
});

describe('JSONL', () => {
  it('takes BOM, CRLF, blank lines, no newline at the end, and gzip', async () => {
    const text = `\ufeff${P}\r\n\r\n  \n${P}`;
    expect(await brief('a.jsonl', text)).toEqual([
      [1, 'p', 'r'],
      [4, 'p', 'r'],
    ]);
    expect(await brief('a.jsonl.gz', gzipSync(text))).toEqual([
      [1, 'p', 'r'],
      [4, 'p', 'r'],
    ]);
    expect(await brief('a.ndjson', text)).toHaveLength(2);
  });

  it.each([
    ['', 1, /at least one record/],
    [`${P}\n{"prompt": }`, 2, /a value.* got "}" at column 12/],
    [`${P} ${P}`, 1, /the end of the line after the value/],
    ['{"prompt": "p", "response": "r"', 1, /"," or "}", got the end/],
    ['[]', 1, /got an array of 0/],
  ])('refuses %j', async (text, line, message) => {
    await fails('a.jsonl', text, line, message);
  });

  it('refuses a line that is too long, before reading all of it', async () => {
    await fails('a.jsonl', `${P}\n"${'x'.repeat(300_000)}"`, 2, /at most 1000 bytes/, { maxRecordBytes: 1000 });
  });

  it('refuses a line that is not UTF-8', async () => {
    await fails(
      'a.jsonl',
      Buffer.concat([Buffer.from(`${P}\n`), Buffer.from([0x22, 0xc3, 0x28, 0x22])]),
      2,
      /0x28|0xc3/,
    );
  });

  it('refuses broken gzip, directories and missing files', async () => {
    const cut = write('a.jsonl.gz', gzipSync(P).subarray(0, 20));
    await expect(loadRecords(cut)).rejects.toMatchObject({ code: 'BAD_RECORD' });
    mkdirSync(join(dir, 'd.jsonl'));
    await expect(loadRecords(join(dir, 'd.jsonl'))).rejects.toThrow(/expected a file, got a directory/);
    await expect(loadRecords(join(dir, 'none.jsonl'))).rejects.toThrow(/none\.jsonl: .*no such file/);
  });
});

describe('CSV', () => {
  it('reads quoted fields over several lines and knows where rows begin', async () => {
    const text = '\ufeffid,prompt,response\r\n1,"a, ""b""\nc",d\r\n\r\n2,e,f\r\n';
    expect(await brief('a.csv', text)).toEqual([
      [2, 'a, "b"\nc', 'd'],
      [5, 'e', 'f'],
    ]);
    expect(await brief('a.csv.gz', gzipSync(text))).toHaveLength(2);
  });

  it('reads messages that are JSON', async () => {
    const cell = JSON.stringify([{ role: 'assistant', content: 'x' }]).replaceAll('"', '""');
    expect(await brief('a.csv', `messages\n"${cell}"\n`)).toEqual([[2, 'x']]);
    await fails('a.csv', 'messages\n[\n', 2, /a value/);
  });

  it.each([
    ['', 1, /at least one record/],
    ['prompt,response\n', 1, /at least one record/],
    ['promt,response\na,b\n', 1, /a header with prompt,response .* got promt,response/],
    ['prompt,prompt,response\na,b,c\n', 1, /"prompt" twice/],
    ['prompt,response\na,b\na,b,c\n', 3, /2 fields as in the header, got 3/],
    ['prompt,response\na,\n', 2, /"response" not to be empty/],
    ['prompt,response\na,"b\n', 2, /expected CSV/],
    ['prompt,response\na,b"c"\n', 2, /expected CSV/],
  ])('refuses %j', async (text, line, message) => {
    await fails('a.csv', text, line, message);
  });

  it('refuses rows that are too long and bytes that are not UTF-8', async () => {
    await fails('a.csv', `prompt,response\na,${'x'.repeat(5000)}\n`, 2, /maxRecordBytes/, { maxRecordBytes: 1000 });
    const bytes = Buffer.concat([Buffer.from('prompt,response\na,'), Buffer.from([0xff])]);
    await expect(loadRecords(write('a.csv', bytes))).rejects.toThrow(/UTF-8/);
  });
});

describe('plain text', () => {
  const text = '\ufeffone\r\ntwo\r\n\r\n\r\nthree\r\n';

  it('is cut into paragraphs, lines or not at all', async () => {
    expect(await brief('a.txt', text)).toEqual([
      [1, 'one\ntwo'],
      [5, 'three'],
    ]);
    expect(await brief('a.txt', text, { textBy: 'line' })).toEqual([
      [1, 'one'],
      [2, 'two'],
      [5, 'three'],
    ]);
    expect(await brief('a.md', text, { textBy: 'document' })).toEqual([[1, 'one\ntwo\n\n\nthree']]);
  });

  it('is refused when there is none, or too much of it', async () => {
    await fails('a.txt', ' \n\n', 1, /some text, got an empty file/);
    await fails('a.txt', `\n${'abcdefghi\n'.repeat(20)}`, 2, /at most 100 bytes/, { maxRecordBytes: 100 });
  });
});

it('goes by the name unless told the format', async () => {
  expect(['a.JSON', 'x/b.jsonl.gz', 'c.d.parquet'].map((name) => formatOf(name))).toEqual(['json', 'jsonl', 'parquet']);
  expect(() => formatOf('a.xlsx')).toThrow(/ending in \.json/);
  expect(() => formatOf('constructor')).toThrow(/ending in .*, received a name without an ending; /);
  expect(() => formatOf('x/b.zip')).toThrow(
    /^x\/b\.zip: .*, received \.zip; convert or rename the file, or say what it holds with the option format: one of 'json',/,
  );
  expect(await brief('a.dat', P, { format: 'jsonl' })).toHaveLength(1);
  for (const options of [{}, { format: 'jsonl' }] as const)
    await expect(loadRecords(import.meta.dirname, options)).rejects.toThrow(
      /: expected a file, got a directory; name the/,
    );
});

it('reads several files in order', async () => {
  const files = [write('a.jsonl', P), write('b.json', `[${P}]`)];
  expect((await loadRecords(files)).map((record) => record.source.file)).toEqual(files);
});
