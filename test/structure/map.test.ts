// docs/map.md lists every file by the sentence that it opens with, and every source file opens with one to five lines
// that say what it is. UPDATE=1 rewrites the page.
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { projectFiles, ROOT, read } from './files.js';
import { makeMap, opening } from './map.js';

const files = projectFiles();

test('docs/map.md lists every file', () => {
  const missing: string[] = [];
  const page = makeMap(files, missing);
  if (process.env.UPDATE) writeFileSync(join(ROOT, 'docs/map.md'), page);
  expect(missing, 'files that open with no sentence').toEqual([]);
  expect(read('docs/map.md')).toBe(page);
});

test('every source file opens with what it is', () => {
  const sources = files.filter((path) => /^(lib|native|scripts|test|bench|examples)\/.*\.(ts|mjs|h|py)$/.test(path));
  const bad = sources.filter((path) => opening(path).length === 0);
  expect(bad).toEqual([]);
});

test('an opening is read from each kind of file', () => {
  expect(opening('a.ts', '#!/usr/bin/env node\n// What it is.\n// What it is not.\nimport x;')).toEqual([
    'What it is.',
    'What it is not.',
  ]);
  expect(opening('a.h', '// A header.\n#pragma once')).toEqual(['A header.']);
  expect(opening('a.py', '"""A script: it does."""\nimport x')).toEqual(['A script: it does.']);
  expect(opening('a.ts', 'import x;\n// late')).toEqual([]);
});
