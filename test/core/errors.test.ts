// Holds together: the table of codes, docs/errors.md, and the codes that native/ and lib/setup throw.
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { describe as describeValue } from '../../lib/core/errors.js';
import { ERRORS, ShardloopError } from '../../lib/index.js';

const root = join(import.meta.dirname, '..', '..');

function textsUnder(folder: string, ending: RegExp): string {
  const names = readdirSync(join(root, folder), { recursive: true, encoding: 'utf8' });
  return names
    .filter((name) => ending.test(name))
    .map((name) => readFileSync(join(root, folder, name), 'utf8'))
    .join('\n');
}

const codesIn = (text: string, pattern: RegExp): string[] => [
  ...new Set([...text.matchAll(pattern)].map((m) => m[1]!)),
];

it('docs/errors.md has a row for each code, in order, with its sentence and a remedy', () => {
  const rows = readFileSync(join(root, 'docs', 'errors.md'), 'utf8').matchAll(/^\| ([A-Z_]+) \| (.+) \| (.+) \|$/gm);
  const page = [...rows].map(([, code, meaning, remedy]) => ({ code, meaning, remedy }));
  expect(page.map(({ code, meaning }) => [code, meaning])).toEqual(Object.entries(ERRORS));
  for (const { remedy } of page) expect(remedy?.length).toBeGreaterThan(10);
});

it('codes are sorted, and each meaning is one sentence', () => {
  const codes = Object.keys(ERRORS);
  expect(codes).toEqual([...codes].sort());
  for (const meaning of Object.values(ERRORS)) expect(meaning).toMatch(/^[A-Za-z][^\n]*\.$/);
});

it('native code throws known codes only', () => {
  const codes = codesIn(textsUnder('native', /\.(cc|h|cu)$/), /\bError\("([A-Z_]+)"/g);
  expect(codes.length).toBeGreaterThan(4);
  for (const code of codes) expect(Object.keys(ERRORS)).toContain(code);
});

it('every code is thrown somewhere', () => {
  const sources = textsUnder('lib', /\.ts$/) + textsUnder('native', /\.(cc|h|cu)$/);
  for (const code of Object.keys(ERRORS)) {
    const uses = sources.split(new RegExp(`['"]${code}['"]`)).length - 1;
    expect(uses, code).toBeGreaterThan(0);
  }
});

describe('ShardloopError', () => {
  it('has a name, a code, a message and a cause', () => {
    const cause = new Error('below');
    const error = new ShardloopError('BAD_ARGUMENT', 'expected x', { cause });
    expect(error).toBeInstanceOf(Error);
    expect([error.name, error.code, error.message, error.cause]).toEqual([
      'ShardloopError',
      'BAD_ARGUMENT',
      'expected x',
      cause,
    ]);
  });
});

it('describes any value shortly and without throwing', () => {
  const hostile = new Proxy(
    {},
    {
      get() {
        throw new Error('no');
      },
    },
  );
  expect(
    [null, undefined, 'x'.repeat(99), 5n, [1, 2], {}, { a: 1 }, new Map(), () => {}, Symbol('s'), Number.NaN].map(
      describeValue,
    ),
  ).toEqual([
    'null',
    'undefined',
    `"${'x'.repeat(40)}..."`,
    '5n',
    'an array of 2',
    'an empty object',
    'an object with a',
    'an object of class Map',
    'the function (anonymous)',
    'Symbol(s)',
    'NaN',
  ]);
  expect(describeValue(hostile)).toBe('an object');
});
