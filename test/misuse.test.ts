// The functions of the package that take an object of options, each with what is none: they say by name what they expect.
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import * as shardloop from '../lib/index.js';
import { forecast } from '../lib/train/forecast.js';

const { data, dist, io, nn, parallel } = shardloop;
const folder = mkdtempSync(join(tmpdir(), 'shardloop-misuse-'));
afterAll(() => rmSync(folder, { recursive: true }));

const model = new shardloop.GPT2LMHeadModel({ vocab_size: 8, n_positions: 8, n_embd: 4, n_layer: 1, n_head: 1 });
const group = () => dist.createGroup({ rank: 0, size: 1 });
const records = async (options: never) => {
  for await (const _ of data.readRecords('none.json', options)) return;
};

/** With options that must be given, and with some that may be left out. */
const required: Record<string, (options: never) => unknown> = {
  finetune: shardloop.finetune,
  pretrain: shardloop.pretrain,
  generateText: shardloop.generateText,
  mergeAdapter: shardloop.mergeAdapter,
  consolidate: shardloop.consolidate,
  forecast,
  launch: dist.launch,
  createGroup: dist.createGroup,
  zero: async (options) => parallel.zero(nn.segmentsOf(model), await group(), options),
  BatchSource: (options) => new data.BatchSource({} as never, options),
  textBlocks: (options) => data.textBlocks(new Int32Array(9), options),
};
const optional: Record<string, (options: never) => unknown> = {
  'finetune: the second argument': (options) => shardloop.finetune({ model: 'm', data: 'd', out: folder }, options),
  generate: (options) => shardloop.generate(model, [1], options),
  loadModel: (options) => shardloop.loadModel(folder, options),
  saveModel: (options) => shardloop.saveModel(model, join(folder, 'model'), options),
  addLora: (options) => shardloop.addLora(model, options),
  loadAdapter: (options) => shardloop.loadAdapter(model, folder, options),
  saveAdapter: (options) => shardloop.saveAdapter(model, join(folder, 'adapter'), options),
  openCheckpoint: (options) => io.openCheckpoint(folder, options),
  saveCheckpoint: (options) => io.saveCheckpoint(folder, 1, { tensors: {}, state: null }, options),
  init: (options) => dist.init(options),
  readRecords: records,
  loadRecords: (options) => data.loadRecords('none.json', options),
};

/** With options that may be left out, and of which any more are let through. */
const open: Record<string, (options: never) => unknown> = {
  replicate: async (options) => parallel.replicate(nn.segmentsOf(model), await group(), options),
};

const given: [value: unknown, received: string][] = [
  ['x', '"x"'],
  [[1, 2], 'an array of 2'],
  [null, 'null'],
  [5, '5'],
];

const message = async (run: (options: never) => unknown, options: unknown) => {
  const failure = await Promise.resolve()
    .then(() => run(options as never))
    .then(
      () => null,
      (error: unknown) => error,
    );
  expect(failure).toMatchObject({ code: 'BAD_ARGUMENT' });
  return (failure as Error).message;
};
const told = (name: string, received: string) =>
  new RegExp(`^${name}: .*expected an (options )?object.*, received ${received}$`);

describe('options that are none', () => {
  it.each(Object.entries(required))('%s', async (name, run) => {
    for (const [value, received] of [...given, [undefined, 'undefined'] as const])
      expect(await message(run, value)).toMatch(told(name, received));
  });

  it.each(Object.entries(open))('%s', async (name, run) => {
    for (const [value, received] of given) expect(await message(run, value)).toMatch(told(name, received));
  });

  it.each(Object.entries(optional))('%s', async (name, run) => {
    for (const [value, received] of given) expect(await message(run, value)).toMatch(told(name, received));
    expect(await message(run, { nope: 1 })).toMatch(new RegExp(`^${name}: unknown option 'nope'`));
  });
});

describe('values that are no number', () => {
  it.each([
    [
      () => shardloop.generate(model, 'abc' as never),
      'expected an array of token ids, or an array of such arrays, received "abc"',
    ],
    [
      () => shardloop.generate(model, [1], { maxNewTokens: '4' as never }),
      'maxNewTokens: expected a positive integer, received "4"',
    ],
    [
      () => shardloop.generate(model, [1], { temperature: '1' as never }),
      'temperature: expected a number from 0 up, received "1"',
    ],
    [
      () => shardloop.generate(model, [1], { topP: '1' as never }),
      'topP: expected a number above 0 and up to 1, received "1"',
    ],
    [() => shardloop.generate(model, [1], { topK: '4' as never }), 'topK: expected a positive integer, received "4"'],
    [() => shardloop.generate(model, [1], { seed: '4' as never }), 'seed: expected an integer, received "4"'],
    [() => shardloop.generate(model, ['1'] as never), 'expected token ids, received "1"'],
    [() => shardloop.generate(model, [[1], 2] as never), 'prompt 1: expected an array of token ids, received 2'],
    [() => data.textBlocks(new Int32Array(9), { seqLen: '4' as never }), 'seqLen to be a positive integer, got "4"'],
    [() => new data.BatchSource({} as never, { microBatch: '4' as never }), 'an integer of at least 1, got "4"'],
    [
      async () => parallel.zero(nn.segmentsOf(model), await group(), { stage: '3' as never }),
      'stage to be 1, 2 or 3, received "3"',
    ],
  ])('%s', async (run, text) => {
    expect(await message(run as never, undefined)).toContain(text);
  });
});
