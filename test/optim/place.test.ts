// States in mapped files: the same updates bit for bit, no memory of the allocator, nothing left in the folder.
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, test } from 'vitest';
import { memory, noGrad, ops, randn, type Tensor } from '../../lib/core/index.js';
import {
  Adafactor,
  AdamW,
  Lion,
  MasterWeights,
  Muon,
  mappedFiles,
  type Optimizer,
  SGD,
} from '../../lib/optim/index.js';

const folder = mkdtempSync(join(tmpdir(), 'shardloop-place-'));
afterAll(() => rmSync(folder, { recursive: true }));
const place = mappedFiles(join(folder, 'deep', 'er'));
const N = 128;
type Make = (p: Tensor, place?: typeof mappedFiles extends (folder: string) => infer P ? P : never) => Optimizer;
const MAKERS: Record<string, Make> = {
  adamw: (p, place) => new AdamW({ params: [['p', p]], place }),
  sgd: (p, place) => new SGD({ params: [['p', p]], lr: 0.1, momentum: 0.9, place }),
  lion: (p, place) => new Lion({ params: [['p', p]], place }),
  adafactor: (p, place) => new Adafactor({ params: [['p', p]], place }),
  muon: (p, place) => new Muon({ params: [['p', p]], place }),
  masters: (p, place) =>
    new MasterWeights({
      groups: [{ params: [['p', p]] as [string, Tensor][] }],
      optimizer: (groups) => new AdamW({ groups, place }),
      place,
    }),
};

function half(source: Tensor, name: string): Tensor {
  const t = source.to({ dtype: name === 'masters' ? 'bfloat16' : 'float32' });
  const p = name === 'masters' ? t : t.clone();
  p.requiresGrad = true;
  return p;
}

function steps(p: Tensor, optimizer: Optimizer, gradients: readonly Tensor[]): void {
  for (const gradient of gradients) {
    p.grad = gradient.to({ dtype: p.dtype });
    optimizer.step();
    optimizer.zeroGrad();
  }
}

describe('mappedFiles', () => {
  test.each(Object.keys(MAKERS))('%s updates from files as from memory, and after its state was loaded', (name) => {
    const start = randn([N, N]);
    const gradients = Array.from({ length: 4 }, () => randn([N, N]));
    const [plain, mapped, resumed] = [half(start, name), half(start, name), half(start, name)];
    const bytes = () => memory.allocatorStats('cpu').allocated;
    const grown = (make: () => Optimizer): [Optimizer, number] => {
      const before = bytes();
      const optimizer = make();
      optimizer.prepare();
      return [optimizer, bytes() - before];
    };
    const [inMemory, whole] = grown(() => MAKERS[name]!(plain));
    const [inFiles, rest] = grown(() => MAKERS[name]!(mapped, place));
    if (name !== 'adafactor') expect(whole).toBeGreaterThanOrEqual(N * N * 4);
    expect(rest).toBe(0);
    const maps = () =>
      readFileSync('/proc/self/maps', 'utf8')
        .split('\n')
        .filter((line) => /deep\/er\/state-\d+-\d+ \(deleted\)/.test(line));
    expect(maps()).not.toEqual([]);
    expect(readdirSync(join(folder, 'deep', 'er'))).toEqual([]);
    steps(plain, inMemory, gradients.slice(0, 2));
    steps(mapped, inFiles, gradients.slice(0, 2));
    const next = MAKERS[name]!(resumed, place);
    const before = bytes();
    next.loadStateDict(inFiles.stateDict());
    expect(bytes() - before).toBe(0);
    if (name !== 'masters') noGrad(() => ops.copy_(resumed, mapped));
    for (const [p, optimizer] of [
      [plain, inMemory],
      [mapped, inFiles],
      [resumed, next],
    ] as const) {
      steps(p, optimizer, gradients.slice(2));
    }
    expect(mapped.to({ dtype: 'float32' }).dataSync()).toEqual(plain.to({ dtype: 'float32' }).dataSync());
    expect(resumed.to({ dtype: 'float32' }).dataSync()).toEqual(plain.to({ dtype: 'float32' }).dataSync());
    for (const optimizer of [inMemory, inFiles, next]) optimizer.dispose();
    expect(maps()).toEqual([]);
  });

  test('says what has no room, and what is no place', () => {
    const file = join(folder, 'file');
    writeFileSync(file, '');
    const p = randn([8]);
    p.requiresGrad = true;
    const of = (place: unknown) => () => new AdamW({ params: [['p', p]], place: place as never }).prepare();
    expect(of(mappedFiles(join(file, 'below')))).toThrow(
      /^mappedFiles: expected a folder to write to in .*file\/below, received ENOTDIR.*choose another one/,
    );
    expect(of('a folder')).toThrow('AdamW: expected place to be a function, received "a folder"');
    const meta = randn([8], { device: 'meta' });
    expect(() => place('p.exp_avg', meta)).toThrow('expected "p.exp_avg" on the CPU, received it on meta');
  });
});
