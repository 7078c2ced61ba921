// The budgets of budgets.json: how long files may be, and how many native exports, public exports and CLI flags there
// are. Raising a number is a line that a reviewer sees.

import ts from 'typescript';
import { expect, test } from 'vitest';
import { program } from '../../lib/cli/index.js';
import { projectFiles, read } from './files.js';

interface Budgets {
  fileLines: number;
  /** Longer files, each with its own number; generated ones have none. */
  longer: Record<string, number>;
  nativeExports: number;
  publicExports: number;
  /** Different flags over all commands. */
  cliFlags: number;
  dependencies: number;
}

const budgets = JSON.parse(read('test/structure/budgets.json')) as Budgets;
const files = projectFiles();
const GENERATED = /^lib\/core\/(ops|methods)\.ts$/;

test('no file is longer than its budget', () => {
  const code = files.filter((path) => /\.(ts|mjs|cc|cu|h|py)$/.test(path) && !GENERATED.test(path));
  const long = code
    .map((path) => ({ path, lines: read(path).split('\n').length - 1 }))
    .filter(({ path, lines }) => lines > (budgets.longer[path] ?? budgets.fileLines));
  expect(long, 'look for the second idea in the file').toEqual([]);
  expect(Object.keys(budgets.longer).filter((path) => !files.includes(path))).toEqual([]);
});

test('the addon exports no more functions than its budget', () => {
  const names = read('native/addon.cc').match(/\badd\("\w+"|exports\.Set\("\w+"/g) ?? [];
  expect(names.length).toBeGreaterThan(10);
  expect(names.length).toBeLessThanOrEqual(budgets.nativeExports);
});

test('lib/index.ts lists the public exports by name, within the budget', () => {
  const source = ts.createSourceFile('index.ts', read('lib/index.ts'), ts.ScriptTarget.Latest);
  const names: string[] = [];
  source.forEachChild((node) => {
    if (!ts.isExportDeclaration(node)) return;
    const clause = node.exportClause;
    expect(clause, 'export * hides what is public').toBeDefined();
    if (clause && ts.isNamedExports(clause)) names.push(...clause.elements.map((element) => element.name.text));
    else if (clause) names.push(clause.name.text);
  });
  expect(new Set(names).size).toBe(names.length);
  expect(names.length).toBeGreaterThan(20);
  expect(names.length).toBeLessThanOrEqual(budgets.publicExports);
});

test('the commands have no more flags than the budget', () => {
  const flags = program().commands.flatMap((command) =>
    command.options.filter((option) => !option.hidden).map((option) => option.long),
  );
  expect(new Set(flags).size).toBeGreaterThan(20);
  expect(new Set(flags).size, [...new Set(flags)].join(' ')).toBeLessThanOrEqual(budgets.cliFlags);
});

test('there are no more dependencies than the budget', () => {
  const { dependencies } = JSON.parse(read('package.json')) as { dependencies: object };
  expect(Object.keys(dependencies).length).toBeLessThanOrEqual(budgets.dependencies);
});
