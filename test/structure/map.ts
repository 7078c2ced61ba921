// Makes docs/map.md: every file of the project with the sentence that it opens with, folder by folder, so that the map
// cannot say anything else than the files. What has no comment of its own has its line in NAMED.
import { posix } from 'node:path';
import { read } from './files.js';

/** Folders in the order in which a reader meets them, with their one line. */
const FOLDERS: readonly [string, string][] = [
  ['lib', 'the library; imports go down only'],
  ['lib/cli', 'one small file a command'],
  ['lib/train', 'the training jobs: read like their own table of contents'],
  ['lib/parallel', 'the loop over segments and the strategies around it'],
  ['lib/models', 'one folder a family: the architecture, the placement, the published names'],
  ['lib/peft', 'adapters'],
  ['lib/bench', 'how fast the collectives are, and whether they are right'],
  ['lib/optim', 'optimizers, schedules, clipping'],
  ['lib/dist', 'groups of processes'],
  ['lib/data', 'from files to batches'],
  ['lib/io', 'files that others read'],
  ['lib/nn', 'modules and layers'],
  ['lib/core', 'tensors, ops, scopes, errors: the door to native'],
  ['lib/setup', 'finding libtorch, building the addon'],
  ['native', 'the addon in C++20'],
  ['examples', 'short programs, each run by a test'],
  ['scripts', 'what npm runs'],
  ['bench', 'contenders side by side'],
  ['test', 'same folders and names as lib/, and the promises, the fuzzer, the oracle'],
  ['docs', 'how it works and why'],
  ['.ci', 'what continuous integration runs'],
  ['.', 'the root'],
];

/** Files that cannot carry a comment, or whose first line is not a sentence about them. */
const NAMED: Readonly<Record<string, string>> = {
  '.clang-format': 'The format of native/.',
  '.gitignore': 'What git leaves out.',
  '.npmrc': 'How npm behaves in this clone.',
  'biome.json': 'Lint and format of TypeScript.',
  'binding.gyp': 'A door for node-gyp users; calls the CMake build.',
  'CHANGELOG.md': 'What changed, by version.',
  'CONTRIBUTING.md': 'How to work on it.',
  'docs/coverage.md': 'Every ATen op and whether it is typed; generated.',
  'docs/map.md': 'This page; generated.',
  LICENSE: 'Apache-2.0.',
  'package.json': 'The package, its scripts and dependencies.',
  'package-lock.json': 'The exact dependencies.',
  'README.md': 'Begin here.',
  'test/oracle/ops-skipped.json': 'What ops.test.ts cannot pass, with reasons; generated.',
  'test/train/step-cost.json': 'What a training step cost when it was last recorded; generated.',
  'test/structure/budgets.json': 'The numbers that only a reviewed line may raise.',
  'tsconfig.check.json': 'The type check of tests, examples, bench and scripts too.',
  'tsconfig.json': 'How TypeScript is compiled.',
  'vitest.config.ts': 'How the tests run.',
  'typedoc.json': 'How the API reference is made.',
};

/** The comment that a file opens with, as plain lines; empty when there is none. */
export function opening(path: string, text = read(path)): string[] {
  const lines = text.split('\n');
  while (/^#!|^#pragma once|^<!--|^\s*$/.test(lines[0] ?? 'end')) lines.shift();
  if (path.endsWith('.py')) {
    const match = /^"""([\s\S]*?)"""/.exec(lines.join('\n'));
    return match ? match[1]!.trim().split('\n') : [];
  }
  const mark = /\.(txt|yml|yaml|sh|toml|cmake|npmrc)$|CMakeLists|\.ci\//.test(path) ? /^#\s?/ : /^\/\/\s?/;
  const end = lines.findIndex((line) => !mark.test(line));
  return lines.slice(0, end < 0 ? lines.length : end).map((line) => line.replace(mark, ''));
}

/** The one line of a file in the map; null when it has none. */
export function sentence(path: string, files: readonly string[]): string | null {
  const named = NAMED[path];
  if (named !== undefined) return named;
  if (path.endsWith('.md')) return /^#+ (.+)$/m.exec(read(path))?.[1] ?? null;
  const comment = opening(path).join(' ').replace(/\s+/g, ' ').trim();
  if (comment !== '') return /^(.*?[.:;])(?= |$)/.exec(comment)?.[1]?.replace(/[:;]$/, '.') ?? comment;
  const header = path.replace(/\.(cc|cu)$/, '.h');
  if (header !== path && files.includes(header)) return `What ${posix.basename(header)} declares.`;
  return null;
}

/** Data, fixtures and the parts of generated trees stand in the map as folders, with their number of files. */
const BUNDLED = /^(examples\/data|test\/fixtures|docs\/log|docs\/decisions|native\/gloo_declarations)\//;

/** The whole page; `missing` collects files that have no sentence. */
export function makeMap(files: readonly string[], missing: string[]): string {
  const lines = [
    '# Map',
    '',
    'Every file and what it is, in the words that it opens with. Made by `UPDATE=1 npx vitest run test/structure`;',
    'a test compares. Start with [README](../README.md), then [lifecycle](lifecycle.md).',
  ];
  const placed = new Set<string>();
  for (const [folder, about] of FOLDERS) {
    const inside = files.filter((path) => !placed.has(path) && (folder === '.' || path.startsWith(`${folder}/`)));
    const deeper = FOLDERS.map(([name]) => name).filter((name) => name !== folder && name.startsWith(`${folder}/`));
    const own = inside.filter((path) => !deeper.some((name) => path.startsWith(`${name}/`)));
    if (own.length === 0) continue;
    lines.push(
      '',
      `## ${folder === '.' ? 'The root' : `${folder}/`}`,
      '',
      `${about[0]!.toUpperCase()}${about.slice(1)}.`,
      '',
    );
    const bundles = new Map<string, number>();
    for (const path of own) {
      placed.add(path);
      const bundle = BUNDLED.exec(path)?.[0];
      if (bundle !== undefined) {
        if (!bundles.has(bundle)) lines.push(`- \`${bundle}\``);
        bundles.set(bundle, (bundles.get(bundle) ?? 0) + 1);
        continue;
      }
      const text = sentence(path, files);
      if (text === null) missing.push(path);
      else lines.push(`- \`${path}\`: ${text}`);
    }
    for (const [bundle, count] of bundles) {
      const at = lines.indexOf(`- \`${bundle}\``);
      lines[at] = `- \`${bundle}\`: ${count} file${count === 1 ? '' : 's'}.`;
    }
  }
  return `${lines.join('\n')}\n`;
}
