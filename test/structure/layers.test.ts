// Imports in lib/ go down only, floor by floor; folders of one floor do not know each other. Every import is read.
import { expect, test } from 'vitest';
import { importsOf, loadedWith, projectFiles, read, resolveImport } from './files.js';

/** From the top to the ground; a folder may import from its own and from lower floors. */
const FLOORS: readonly (readonly string[])[] = [
  ['cli', 'service'],
  ['train'],
  ['parallel', 'models', 'peft', 'bench'],
  ['optim'],
  ['dist', 'data', 'io', 'nn'],
  ['core'],
  ['setup'],
];

const floorOf = (folder: string) => FLOORS.findIndex((floor) => floor.includes(folder));
const folderOf = (path: string) => path.split('/')[1]!;
const sources = projectFiles().filter((path) => path.startsWith('lib/') && path.endsWith('.ts'));

/** Why `from` may not import `to`, or null. lib/index.ts stands above all floors. */
function fault(from: string, to: string): string | null {
  if (!to.startsWith('lib/')) return `${from} imports ${to}, which is outside of lib/`;
  if (!sources.includes(to)) return `${from} imports ${to}, which does not exist`;
  if (from === 'lib/index.ts') return null;
  if (to === 'lib/index.ts') return `${from} imports lib/index.ts, which stands above it`;
  const [upper, lower] = [folderOf(from), folderOf(to)];
  if (upper === lower || floorOf(lower) > floorOf(upper)) return null;
  const how = floorOf(lower) === floorOf(upper) ? 'on the same floor' : 'on a higher floor';
  return `${from} imports ${to}: ${lower} stands ${how}`;
}

test('every folder of lib/ has a floor', () => {
  const folders = new Set(sources.filter((path) => path.split('/').length > 2).map(folderOf));
  expect([...folders].filter((folder) => floorOf(folder) < 0)).toEqual([]);
});

test('imports go down only', () => {
  const faults = sources.flatMap((from) =>
    importsOf(read(from))
      .map((specifier) => resolveImport(from, specifier))
      .filter((to) => to !== null)
      .map((to) => fault(from, to))
      .filter((text) => text !== null),
  );
  expect(faults).toEqual([]);
});

test('the rule would notice: up, sideways, out of lib/, and into a file that is not there', () => {
  const some = (folder: string) => sources.find((path) => folderOf(path) === folder)!;
  expect(fault(some('core'), some('nn'))).toContain('higher floor');
  expect(fault(some('nn'), some('io'))).toContain('same floor');
  expect(fault(some('nn'), 'test/x.ts')).toContain('outside');
  expect(fault(some('nn'), 'lib/core/absent.ts')).toContain('does not exist');
  expect(fault(some('nn'), some('core'))).toBeNull();
  expect(
    importsOf(`import a from './a.js';\nexport * from "./b.js";\nawait import('./c.js'); // from './no.js'`),
  ).toEqual(['./a.js', './b.js', './c.js']);
});

test('only packages that package.json names are imported', () => {
  const { dependencies } = JSON.parse(read('package.json')) as { dependencies: Record<string, string> };
  const packages = sources.flatMap((path) =>
    importsOf(read(path))
      .filter((s) => !s.startsWith('.') && !s.startsWith('node:'))
      .map((s) =>
        s
          .split('/')
          .slice(0, s.startsWith('@') ? 2 : 1)
          .join('/'),
      )
      .filter((name) => name !== 'shardloop' && !(name in dependencies))
      .map((name) => `${path}: ${name}`),
  );
  expect(packages).toEqual([]);
});

test('importing the package loads no parser of files, schema or table: they come when they are needed', () => {
  const seen = new Set(['lib/index.ts']);
  const packages = new Set<string>();
  for (const path of seen) {
    for (const specifier of loadedWith(read(path))) {
      const file = resolveImport(path, specifier);
      if (file !== null) seen.add(file);
      else if (!specifier.startsWith('node:')) packages.add(specifier);
    }
  }
  expect([...packages].sort()).toEqual(['@huggingface/jinja', '@huggingface/tokenizers']);
  const text = `import a from './a.js';\nexport * from './b.js';\nexport { type C, d } from './c.js';\nimport './e.js';
    import type { F } from './f.js';\nexport { type G } from './g.js';\nawait import('./h.js');\nexport const i = 1;`;
  expect(loadedWith(text)).toEqual(['./a.js', './b.js', './c.js', './e.js']);
});
