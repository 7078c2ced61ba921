// What a command line says when it cannot be run: exit code 2 and a sentence, never a stack.
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { parse } from 'yaml';
import { version } from '../../lib/train/versions.js';
import { inProcess } from './run.js';

let folder: string;
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'shardloop-usage-'));
});
afterAll(() => rmSync(folder, { recursive: true }));

const needed = ['--model', 'm', '--data', 'd', '--out', 'o'];

describe('usage errors', () => {
  it.each([
    [['finetun'], 'finetune'],
    [['finetune', '--lora-rnk', '4'], '--lora-rank'],
    [['generate', '--promt', 'x'], '--prompt'],
    [['merge', '--adaptr', 'x'], '--adapter'],
    [['launch', '--nproc-per-nod', '2', 'x.js'], '--nproc-per-node'],
    [['doctor', '--jsn'], '--json'],
  ])('%j suggests the nearest name', async (args, near) => {
    const { code, stderr } = await inProcess(...args);
    expect(code).toBe(2);
    expect(stderr).toContain(`Did you mean ${near}?`);
  });

  it.each([
    [['finetune'], '--model is required'],
    [['finetune', ...needed, '--precision', 'fp8'], '--precision: expected one of fp32, bf16, fp16, bf16-autocast'],
    [['finetune', ...needed, '--config', 'no-such.yaml'], 'no-such.yaml: no such file'],
    [['pretrain', '--data', 'd', '--out', 'o', '--layers', '-1'], '--layers'],
    [['generate', '--model', 'm'], '--prompt is required'],
    [['generate', '--model', 'm', '--prompt', 'x', '--max-new-tokens', 'many'], 'whole number of at least 1'],
    [['launch', '--nproc-per-node', '2', 'no-such-script.js'], 'no file no-such-script.js'],
    [['launch', '--nproc-per-node', '2', '--max-restarts', '-1', 'x.js'], 'whole number of at least 0'],
    [
      ['launch', '--standalone', '--nnodes', '2', '--nproc-per-node', '2', 'package.json'],
      'expected no --nnodes above 1 beside --standalone, which is one host and a free port',
    ],
    [[], 'Usage: shardloop'],
  ])('%j ends with 2', async (args, text) => {
    const { code, stdout, stderr } = await inProcess(...args);
    expect(code).toBe(2);
    expect(stderr + stdout).toContain(text);
    expect(stderr).not.toMatch(/\n\s+at .*:\d+:\d+/);
  });

  it('prints one object with --json', async () => {
    const { code, stdout } = await inProcess('finetune', '--json');
    expect(code).toBe(2);
    expect(JSON.parse(stdout)).toMatchObject({ error: { code: 'BAD_CONFIG' } });
    const flag = await inProcess('finetune', '--json', '--lora-rnk', '4');
    expect(flag.code).toBe(2);
    const message = expect.stringMatching(/^unknown option '--lora-rnk'/);
    expect(JSON.parse(flag.stdout)).toMatchObject({ error: { code: 'BAD_CONFIG', message } });
    expect((await inProcess('finetune', '--help', '--json')).stdout).not.toContain('"error"');
  });
});

describe('help and version', () => {
  it.each(['pretrain', 'finetune', 'generate', 'merge', 'launch', 'bench', 'doctor', 'setup'])(
    '%s --help',
    async (name) => {
      const { code, stdout } = await inProcess(name, '--help');
      expect(code).toBe(0);
      expect(stdout).toContain(`Usage: shardloop ${name}`);
    },
  );

  it('tells defaults and choices of every option', async () => {
    const { stdout } = await inProcess('finetune', '--help');
    expect(stdout).toMatch(/--lora-rank <n>\s+rank of the adapter \(default: 8\)/);
    expect(stdout).toContain('[lora|full]');
    expect(stdout).toContain('130 SIGINT');
  });

  it('--version', async () => {
    expect((await inProcess('--version')).stdout).toBe(`${version()}\n`);
  });
});

describe('--print-config', () => {
  it('prints a config file that gives the same config again', async () => {
    const flags = ['--lora-rank', '4', '--pack', '--target-modules', 'c_attn'];
    const first = await inProcess('finetune', ...needed, ...flags, '--print-config');
    expect(first.code).toBe(0);
    expect(first.stdout).toMatch(/loraRank: 4 # flag/);
    expect(first.stdout).toMatch(/loraAlpha: 16 # default/);
    const file = join(folder, 'again.yaml');
    writeFileSync(file, first.stdout);
    const second = await inProcess('finetune', '--config', file, '--print-config');
    expect(parse(second.stdout)).toEqual(parse(first.stdout));
    expect(second.stdout).toMatch(/loraRank: 4 # file/);
    const negated = await inProcess('finetune', '--config', file, '--no-pack', '--print-config');
    expect(parse(negated.stdout)).toMatchObject({ pack: false, loraRank: 4 });
  });

  it('prints config and sources with --json', async () => {
    const { stdout } = await inProcess('finetune', ...needed, '--print-config', '--json');
    expect(JSON.parse(stdout)).toMatchObject({ config: { model: 'm' }, sources: { model: 'flag', seed: 'default' } });
  });
});
