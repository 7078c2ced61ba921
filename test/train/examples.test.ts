// Every example compiles against the public types and runs, as its first lines say.
import { execFile, spawnSync } from 'node:child_process';
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { afterAll, expect, it } from 'vitest';

const root = fileURLToPath(new URL('../..', import.meta.url));
const folder = mkdtempSync(join(tmpdir(), 'shardloop-examples-'));
afterAll(() => rmSync(folder, { recursive: true }));

const run = async (...args: string[]) =>
  (await promisify(execFile)(process.execPath, args, { cwd: root, env: { ...process.env, OMP_NUM_THREADS: '1' } }))
    .stdout;
const tsx = (name: string, ...args: string[]) => run('--import', 'tsx', join('examples', name), ...args);
const losses = (output: string) => [...output.matchAll(/loss (\d+\.\d+)/g)].map((match) => Number(match[1]));

it('compile', () => {
  const config = join(folder, 'tsconfig.json');
  const compilerOptions = {
    composite: false,
    noEmit: true,
    rootDir: root,
    typeRoots: [join(root, 'node_modules/@types')],
  };
  writeFileSync(
    config,
    JSON.stringify({ extends: join(root, 'tsconfig.json'), compilerOptions, include: [join(root, 'examples/*.ts')] }),
  );
  const tsc = join(root, 'node_modules/typescript/bin/tsc');
  expect(spawnSync(process.execPath, [tsc, '-p', config], { encoding: 'utf8' }).stdout).toBe('');
});

it('loop.ts learns, in about 20 lines', async () => {
  const values = losses(await tsx('loop.ts'));
  expect(values).toHaveLength(10);
  expect(values.at(-1)!).toBeLessThan(values[0]!);
  const short = join(folder, 'short.txt');
  writeFileSync(short, 'x'.repeat(63));
  await expect(tsx('loop.ts', short)).rejects.toThrow('expected a text of at least 64 bytes, received 63');
  const code = readFileSync(join(root, 'examples/loop.ts'), 'utf8')
    .split('\n')
    .filter((line) => line.trim() && !line.startsWith('//'));
  expect(code.length).toBeLessThanOrEqual(22);
});

it('zero3.ts learns on two ranks, on one page', async () => {
  const cli = join('dist', 'cli', 'index.js');
  const values = losses(await run(cli, 'launch', '--nproc-per-node', '2', 'examples/zero3.ts', '30'));
  expect(values).toHaveLength(3);
  expect(values.at(-1)!).toBeLessThan(values[0]!);
  expect(readFileSync(join(root, 'examples/zero3.ts'), 'utf8').split('\n').length).toBeLessThan(60);
});

it('pretrain.ts on two ranks, then finetune.ts, then sample.ts', async () => {
  const model = join(folder, 'model');
  const cli = join('dist', 'cli', 'index.js');
  const pretrained = losses(await run(cli, 'launch', '--nproc-per-node', '2', 'examples/pretrain.ts', '30', model));
  expect(pretrained).toHaveLength(3);
  expect(pretrained.at(-1)!).toBeLessThan(pretrained[0]!);

  const data = join(folder, 'records.json');
  const records = Array.from({ length: 40 }, (_, i) => ({ prompt: `Say ${i}`, response: `I say ${i}.` }));
  writeFileSync(data, JSON.stringify(records));
  const adapter = join(folder, 'adapter');
  const tuned = losses(await tsx('finetune.ts', model, data, adapter, '4'));
  expect(tuned).toHaveLength(20);
  expect(tuned.at(-1)!).toBeLessThan(tuned[0]!);
  expect(readdirSync(adapter).toSorted()).toEqual(['adapter_config.json', 'adapter_model.safetensors']);
  expect(await tsx('sample.ts', 'Say 3', model, adapter)).toMatch(/\n$/);
});
