// Options: defaults, precedence, conversion, and what is refused with which words.
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import fc from 'fast-check';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { ShardloopError } from '../../lib/core/errors.js';
import { kebab, nameAsFlags } from '../../lib/core/option-names.js';
import { finetuneSchema, pretrainSchema } from '../../lib/train/config.js';
import { baseType, type Given, resolveConfig, variable } from '../../lib/train/config-sources.js';

const needed = { model: 'm', data: 'd', out: 'o' };
const resolve = (given: Given) => resolveConfig(finetuneSchema, { ...given, flags: { ...needed, ...given.flags } });
type Reader = <T>(run: () => T) => T;
const program: Reader = (run) => run();
const refusal = (given: Given, reader: Reader = nameAsFlags): string => {
  try {
    reader(() => resolve(given));
  } catch (error) {
    expect(error).toBeInstanceOf(ShardloopError);
    expect((error as ShardloopError).code).toBe('BAD_CONFIG');
    return (error as Error).message;
  }
  throw new Error('nothing was refused');
};

let folder: string;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'shardloop-config-'));
});
afterEach(() => rmSync(folder, { recursive: true }));
const file = (text: string, name = 'run.yaml') => {
  writeFileSync(join(folder, name), text);
  return join(folder, name);
};

describe('precedence', () => {
  it('takes a flag before the environment before the file before the default', () => {
    const path = file('lora-rank: 2\nloraAlpha: 3\nlr: 4\n');
    const env = { SHARDLOOP_LORA_RANK: '5', SHARDLOOP_LORA_ALPHA: '6', SHARDLOOP_EMPTY: '', SHARDLOOP_SEED: '' };
    const { config, sources } = resolve({ file: path, env, flags: { loraRank: '7' } });
    expect(config).toMatchObject({ loraRank: 7, loraAlpha: 6, lr: 4, seed: 1 });
    expect(sources).toMatchObject({ loraRank: 'flag', loraAlpha: 'env', lr: 'file', seed: 'default' });
  });

  it('reads JSON as well, both spellings of a key, and null as not given', () => {
    const path = file('{"micro-batch": 2, "gradAccum": 3, "maxSteps": null}', 'run.json');
    expect(resolve({ file: path }).config).toMatchObject({ microBatch: 2, gradAccum: 3 });
  });
});

describe('conversion', () => {
  it('turns text into the type of the option', () => {
    const flags = { lr: '1e-3', pack: 'true', checkpointing: '2', targetModules: 'all-linear', precision: 'bf16' };
    expect(resolve({ flags }).config).toMatchObject({ ...flags, lr: 0.001, pack: true, checkpointing: 2 });
    expect(resolve({ env: { SHARDLOOP_PACK: '0', SHARDLOOP_CHECKPOINTING: 'full' } }).config).toMatchObject({
      pack: false,
      checkpointing: 'full',
    });
  });

  it('keeps digits as text where the option is a text', () => {
    expect(resolve({ flags: { out: '2024' } }).config.out).toBe('2024');
  });
});

describe('refusals to a command', () => {
  it('names the nearest key, flag and variable', () => {
    expect(refusal({ file: file('lora_rnak: 2') })).toMatch(
      /unknown key lora_rnak in .*run\.yaml; did you mean loraRank\?/,
    );
    expect(refusal({ flags: { gradAcum: '1' } })).toContain('unknown option --grad-acum; did you mean gradAccum?');
    expect(refusal({ env: { SHARDLOOP_LORA_RNAK: '1' } })).toContain('did you mean SHARDLOOP_LORA_RANK?');
    expect(refusal({ file: file('zzzzzzzz: 2') })).toContain('see --help');
  });

  it('leaves variables that are no near miss and those of other commands alone', () => {
    const env = { SHARDLOOP_LIBTORCH: '/x', SHARDLOOP_LAYERS: '2', SHARDLOOP_PORT: '1', OTHER: '1' };
    expect(resolve({ env }).config.seed).toBe(1);
  });

  it('says what was expected, what came, and from where', () => {
    expect(refusal({ flags: { lr: 'NaN' } })).toBe('--lr: expected a number, received "NaN"');
    expect(refusal({ flags: { lr: Number.NaN } })).toBe('--lr: expected a number, received NaN');
    expect(refusal({ flags: { lr: '0' } })).toBe('--lr: expected a number above 0, received 0');
    expect(refusal({ flags: { epochs: '1e18' } })).toBe(
      '--epochs: expected a number of at most 1000000000, received 1000000000000000000',
    );
    expect(refusal({ file: file('loraRank: 2\nlora-rank: 2\n') })).toMatch(/holds both loraRank and lora-rank/);
    expect(refusal({ flags: { loraRank: 'many' } })).toMatch(/--lora-rank: expected a number, received "many"/);
    expect(refusal({ flags: { loraRank: '0' } })).toMatch(/--lora-rank: .*of at least 1, received 0/);
    expect(refusal({ env: { SHARDLOOP_PRECISION: 'fp8' } })).toBe(
      'SHARDLOOP_PRECISION: expected one of fp32, bf16, fp16, bf16-autocast, received "fp8"',
    );
    expect(refusal({ file: file('checkpointing: some') })).toMatch(
      /checkpointing in .*: expected none, full or a number/,
    );
    expect(refusal({ flags: { microBatch: '1.5' } })).toMatch(/--micro-batch: expected a whole number, received 1.5/);
  });

  it('lists every problem at once, and what is required', () => {
    const message = (() => {
      try {
        nameAsFlags(() => resolveConfig(finetuneSchema, { flags: { lr: '-1' } }));
      } catch (error) {
        return (error as Error).message;
      }
    })();
    for (const part of ['--model is required', '--data is required', '--out is required', '--lr:']) {
      expect(message).toContain(part);
    }
    expect(message).toContain('--out is required: folder for the result, checkpoints and metrics\n');
  });

  it('refuses a file that is missing, broken, or no mapping', () => {
    expect(refusal({ file: join(folder, 'none.yaml') })).toContain('no such file');
    expect(refusal({ file: file('a: [1') })).toContain('cannot read the config file');
    expect(refusal({ file: file('- 1\n- 2') })).toContain('expected keys and values');
  });
});

describe('refusals to a program', () => {
  it('name keys where a command would be told flags', () => {
    const told = (flags: Given['flags']) => refusal({ flags }, program);
    expect(told({ loraRank: 0 })).toBe('loraRank: expected a number of at least 1, received 0');
    expect(told({ loraRnak: 2 })).toBe('unknown option loraRnak; did you mean loraRank?');
    expect(told({ zzzzzzzz: 2 })).toBe('unknown option zzzzzzzz; docs/options.md lists them');
    expect(told({ out: null })).toBe('out: expected a text, received null');
    expect(() => resolveConfig(finetuneSchema, { flags: {} })).toThrow(/^model is required/);
  });

  it('say what came, whatever it is', () => {
    const circle: unknown[] = [];
    circle.push(circle);
    expect(refusal({ flags: { maxSteps: 3n } })).toBe('--max-steps: expected a number, received 3n');
    expect(refusal({ flags: { lr: circle } })).toBe('--lr: expected a number, received an array of 1');
    for (const [value, received] of [
      [new Date(0), 'an object of class Date'],
      [new String('4'), 'an object of class String'],
      [new Map(), 'an object of class Map'],
      [[Number.NaN], 'an array of 1'],
      [[undefined], 'an array of 1'],
      [['4', 5], '["4",5]'],
      [{ a: 1 }, '{"a":1}'],
      [() => 1, 'the function (anonymous)'],
    ] as const)
      expect(refusal({ flags: { lr: value } })).toBe(`--lr: expected a number, received ${received}`);
    expect(refusal({ flags: { lossScale: 'x' } })).toBe('--loss-scale: expected dynamic or a number, received "x"');
    const texts = '--target-modules: expected a text or a list of texts, and no empty one, received';
    for (const value of ['', [], 5])
      expect(refusal({ flags: { targetModules: value } })).toBe(`${texts} ${JSON.stringify(value)}`);
  });

  it('say of an empty text whether it may be left out', () => {
    expect(refusal({ flags: { offloadFolder: '' } })).toBe(
      '--offload-folder: expected a text that is not empty, or to be left out, received ""',
    );
    expect(refusal({ flags: { model: '' } })).toBe('--model: expected a text that is not empty, received ""');
  });
});

it('never throws anything but BAD_CONFIG, whatever the file holds', () => {
  fc.assert(
    fc.property(fc.oneof(fc.string(), fc.json()), (text) => {
      try {
        resolve({ file: file(text) });
      } catch (error) {
        expect((error as ShardloopError).code).toBe('BAD_CONFIG');
      }
    }),
    { numRuns: 300 },
  );
});

it('documents every key, with names that are unique as flag and variable', () => {
  for (const schema of [finetuneSchema, pretrainSchema]) {
    const entries = Object.entries(schema.shape);
    for (const [key, field] of entries) {
      expect(field.description, key).toBeTruthy();
      expect(['string', 'number', 'boolean', 'enum', 'union']).toContain(baseType(field).type);
    }
    expect(new Set(entries.map(([key]) => kebab(key))).size).toBe(entries.length);
    expect(new Set(entries.map(([key]) => variable(key))).size).toBe(entries.length);
  }
});
