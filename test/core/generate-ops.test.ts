// The generated files are what the generator makes from the loaded libtorch, when that is the pinned version.
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { libtorchVersion } from '../../lib/index.js';
import { PINNED } from '../../lib/setup/versions.js';
import { generate } from '../../scripts/generate-ops/main.js';
import { group } from '../../scripts/generate-ops/merge.js';
import { judge } from '../../scripts/generate-ops/select.js';

const root = join(import.meta.dirname, '..', '..');

describe.runIf(libtorchVersion() === PINNED)('with the pinned libtorch', () => {
  const files = generate();
  it.each([...files.keys()])('%s is up to date (npm run generate-ops)', (path) => {
    expect(files.get(path) === readFileSync(join(root, path), 'utf8')).toBe(true);
  });
});

describe('rules', () => {
  const judged = (text: string): string | null => judge([text])[0]!.reason;

  it('leave out what writes into an argument, private names, and types that cannot cross', () => {
    expect(judged('aten::f.out(Tensor self, *, Tensor(a!) out) -> Tensor(a!)')).toContain('out=');
    expect(judged('aten::_f(Tensor self) -> Tensor')).toContain('underscore');
    expect(judged('aten::f(Tensor self, Stream s) -> ()')).toContain('Stream');
    expect(judged('aten::f(Tensor self, *, Generator? generator) -> Tensor')).toBeNull();
    expect(judged('aten::_foreach_f(Tensor[] self) -> Tensor[]')).toBeNull();
    expect(judge(['prim::f(Tensor self) -> Tensor'])).toEqual([]);
  });

  it('required and not keyword-only is positional; the rest are options', () => {
    const [verdict] = judge(['aten::f(Tensor self, int? dim, bool keepdim=False, *, float lr) -> Tensor']);
    const [operation] = group([verdict!.schema]);
    const { positional, options, hasRequiredOptions } = operation!.choices[0]!.overload;
    expect(positional.map(({ name }) => name)).toEqual(['self', 'dim']);
    expect(options.map(({ name }) => name)).toEqual(['keepdim', 'lr']);
    expect(hasRequiredOptions).toBe(true);
  });

  it('stop at overloads that no call can tell apart', () => {
    const verdicts = judge(['aten::f.a(Tensor self, int n) -> Tensor', 'aten::f.b(Tensor self, float n) -> Tensor']);
    expect(group(verdicts.map(({ schema }) => schema))[0]!.ambiguous).toEqual(['aten::f.a and aten::f.b']);
  });
});
