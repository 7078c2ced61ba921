// What a command line says when it cannot be run: exit code 2 and a sentence, never a stack.
import { existsSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { parse } from 'yaml';
import { version } from '../../lib/train/versions.js';
import { inProcess, shardloop } from './run.js';

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
    [['finetune'], '--model is required: folder of a GPT-2-shaped Hugging Face model\n'],
    [['finetune', ...needed, '--precision', 'fp8'], '--precision: expected one of fp32, bf16, fp16, bf16-autocast'],
    [['finetune', ...needed, '--config', 'no-such.yaml'], 'no-such.yaml: no such file'],
    [['pretrain', '--data', 'd', '--out', 'o', '--layers', '-1'], '--layers'],
    [['finetune', ...needed, '--offload-folder', ''], '--offload-folder: expected a text that is not empty'],
    [
      ['finetune', ...needed, '--offload', 'optimizer', '--zero', '1'],
      'expected --device cuda; received --device auto',
    ],
    [['generate', '--model', 'no-such', '--prompt', 'x'], '--model: expected a folder, found none at no-such'],
    [['generate', '--model', 'm'], '--prompt is required'],
    [['generate', '--model', 'm', '--prompt', 'x', '--max-new-tokens', 'many'], 'whole number of at least 1'],
    [['launch', '--nproc-per-node', '2', 'no-such-script.js'], 'no file no-such-script.js'],
    [['launch', '--nproc-per-node', '2', '--max-restarts', '-1', 'x.js'], 'whole number of at least 0'],
    [
      ['launch', '--standalone', '--nnodes', '2', '--nproc-per-node', '2', 'package.json'],
      'expected no --nnodes above 1 beside --standalone, which is one host and a free port',
    ],
    [
      ['launch', '--nproc-per-node', '2', '--nnodes', '2', 'package.json'],
      'expected --master-port, the same on every host, for several hosts, received none',
    ],
    [
      ['launch', '--nproc-per-node', '2', '--nnodes', '2', '--master-port', '29500', 'package.json'],
      'expected --master-addr, the host of node 0, for several hosts, received none',
    ],
    [['launch', '--nproc-per-node', '2', '--node-rank', '1', 'package.json'], 'expected --node-rank to be from 0 to 0'],
    [['launch', '--nproc-per-node', '2', '--master-port', '70000', 'package.json'], '--master-port to be a port'],
    [[], 'Usage: shardloop'],
  ])('%j ends with 2', async (args, text) => {
    const { code, stdout, stderr } = await inProcess(...args);
    expect(code).toBe(2);
    expect(stderr + stdout).toContain(text);
    expect(stderr).not.toMatch(/\n\s+at .*:\d+:\d+/);
  });

  it('names the flag for what a file holds when its name does not say it', async () => {
    const { code, stderr } = await inProcess('pretrain', '--data', 'x.zip', '--out', join(folder, 'zip'));
    expect(code).toBe(3);
    expect(stderr).toMatch(/^shardloop: x\.zip: expected a name ending in \.json, .*, received \.zip; /);
    expect(stderr).toContain('or say what it holds with --format json|jsonl|csv|parquet|text [BAD_RECORD]');
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

describe('what does not fit is said before ranks start, once', () => {
  const file = (name: string, content: object) => {
    writeFileSync(join(folder, name), JSON.stringify(content));
    return join(folder, name);
  };
  const given = () => ['--model', folder, '--data', 'd', '--out', join(folder, 'out'), '--nproc', '2'];

  it.each<[string, string[]]>([
    ['--optimizer adafactor needs whole matrices', ['--zero', '1', '--optimizer', 'adafactor']],
    ['--shard-ranks needs something to shard', ['--shard-ranks', '2']],
    ['--shard-ranks: expected a divisor of 2 ranks; received 3', ['--zero', '2', '--shard-ranks', '3']],
    ['--compress works on shards', ['--compress', 'int8']],
    ['--compress packs float32', ['--zero', '1', '--compress', 'topk', '--reduce-dtype', 'bf16']],
    ['--save-throttle-mb is for --save-background', ['--save-throttle-mb', '3']],
    ['--save-best needs held-out records', ['--save-best', '--eval-split', '0.1']],
    ['--loss-scale-initial: expected at least', ['--precision', 'fp16', '--loss-scale-initial', '0.5']],
    ['--model: expected a folder, found none at no-such', ['--model', 'no-such']],
    ['--out: expected a folder to write', ['--out', join(import.meta.dirname, 'run.ts')]],
  ])('%s', async (text, flags) => {
    const { code, stderr, stdout } = await shardloop(['finetune', ...given(), ...flags]);
    expect(code).toBe(2);
    expect(stderr.startsWith(`shardloop: ${text}`), stderr).toBe(true);
    expect(stderr.trimEnd()).not.toContain('\n'); // the launcher would add lines of its own
    expect(stdout).toBe('');
    expect(existsSync(join(folder, 'out'))).toBe(false);
  });

  it('in pretrain too, with all that is wrong at once', async () => {
    const flags = ['--nproc', '2', '--heads', '3', '--width', '32', '--shard-ranks', '2', '--tokenizer', 'no-such'];
    const { code, stderr } = await shardloop(['pretrain', '--data', 'd', '--out', join(folder, 'out'), ...flags]);
    expect(code).toBe(2);
    expect(stderr.split('\n')).toEqual([
      'shardloop: --shard-ranks needs something to shard; received --zero 0; use --zero 1, 2 or 3',
      '--heads: expected a divisor of --width 32, received 3 [BAD_CONFIG]',
      '',
    ]);
    const other = await shardloop([
      'pretrain',
      '--data',
      'd',
      '--out',
      join(folder, 'out'),
      '--nproc',
      '2',
      ...flags.slice(-2),
    ]);
    expect(other.stderr).toBe('shardloop: --tokenizer: expected a folder, found none at no-such [BAD_CONFIG]\n');
  });

  it('a batch of a DeepSpeed config that the ranks do not divide is one problem', async () => {
    const config = file('ds.json', { train_batch_size: 7 });
    const { code, stderr } = await shardloop(['finetune', ...given(), '--deepspeed', config]);
    expect(code).toBe(2);
    expect(stderr).toBe(
      `shardloop: ${config}: expected train_batch_size = --micro-batch x --grad-accum x ranks, received 7 for 3.5 x 1 x 2 [BAD_CONFIG]\n`,
    );
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
