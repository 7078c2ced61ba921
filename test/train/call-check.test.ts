// Whole runs called by a program: what is wrong with its options is said by name, before anything is read.
import { describe, expect, it } from 'vitest';
import { consolidate, finetune, generateText, mergeAdapter, pretrain } from '../../lib/train/index.js';

const functions: Record<string, (options?: unknown) => Promise<unknown>> = {
  generateText: generateText as never,
  mergeAdapter: mergeAdapter as never,
  consolidate: consolidate as never,
};

describe('a run called by a program', () => {
  it.each([
    ['generateText', undefined, 'generateText: expected an options object, received undefined'],
    ['generateText', {}, 'generateText: model: expected a text, received undefined'],
    ['generateText', { model: 'M', prompt: 5 }, 'generateText: prompt: expected a text, received 5'],
    ['generateText', { model: 'M', prompt: 'a', maxTokens: 3 }, "generateText: unknown option 'maxTokens'"],
    [
      'generateText',
      { model: 'M', prompt: 'a', precision: 'fp16' },
      'precision: expected one of fp32, bf16, received "fp16"',
    ],
    [
      'generateText',
      { model: 'M', prompt: 'a', device: 'gpu' },
      'device: expected one of auto, cpu, cuda, received "gpu"',
    ],
    ['generateText', null, 'generateText: expected an options object, received null'],
    ['generateText', 'x', 'generateText: expected an options object, received "x"'],
    ['mergeAdapter', undefined, 'mergeAdapter: expected an options object'],
    ['mergeAdapter', { model: 'M', adapter: 'A', output: 'O' }, "mergeAdapter: unknown option 'output'"],
    ['mergeAdapter', { model: 'M', adapter: 'A' }, 'mergeAdapter: out: expected a text, received undefined'],
    [
      'mergeAdapter',
      { model: 'M', adapter: 'A', out: 'O', precision: 'fp16' },
      'precision: expected one of fp32, bf16',
    ],
    ['consolidate', undefined, 'consolidate: expected an options object'],
    ['consolidate', { from: 'C' }, "consolidate: unknown option 'from'"],
    ['consolidate', { checkpoint: 'C' }, 'consolidate: out: expected a text, received undefined'],
  ])('%s(%o)', async (name, options, message) => {
    await expect(functions[name]!(options)).rejects.toMatchObject({
      code: 'BAD_ARGUMENT',
      message: expect.stringContaining(message),
    });
  });

  const runs: Record<string, (config?: unknown, options?: unknown) => Promise<unknown>> = {
    finetune: finetune as never,
    pretrain: pretrain as never,
  };
  const given = { model: 'M', data: 'D', out: '/no/folder' };
  const first = 'the first argument: expected an object with the options of the run, such as { data, out }, received';
  const second = 'the second argument:';

  describe.each(['finetune', 'pretrain'])('%s', (name) => {
    it.each([
      [[undefined], `${first} undefined`],
      [[null], `${first} null`],
      [['x'], `${first} "x"`],
      [[[given]], `${first} an array of 1`],
      ...(['signal', 'dryRun', 'progress', 'onPhase', 'sinks', 'group'] as const).map((key): [unknown[], string] => [
        [{ ...given, [key]: true }],
        `expected ${key} in the second argument, as in ${name}({ data, out }, { ${key} }); received it in the first`,
      ]),
      [[given, null], `${second} expected an options object, received null`],
      [[given, 'x'], `${second} expected an options object, received "x"`],
      [
        [given, { nope: 1 }],
        `${second} unknown option 'nope' (known are signal, dryRun, progress, onPhase, sinks, group)`,
      ],
      [[given, { dryrun: true }], `${second} unknown option 'dryrun'; did you mean 'dryRun'?`],
      [[given, { signal: 5 }], `${second} signal: expected an AbortSignal, received 5`],
      [[given, { dryRun: 'no' }], `${second} dryRun: expected true or false, received "no"`],
      [
        [given, { progress: true }],
        `${second} progress: expected a stream to write to, such as process.stderr, received true`,
      ],
      [[given, { onPhase: 'x' }], `${second} onPhase: expected a function, received "x"`],
      [[given, { sinks: 3 }], `${second} sinks: expected an array of metrics sinks, received 3`],
      [[given, { group: null }], `${second} group: expected a group of ranks, received null`],
    ])('%j', async (args, message) => {
      const expected = { code: 'BAD_ARGUMENT', message: expect.stringContaining(`${name}: ${message}`) };
      await expect(runs[name]!(...args)).rejects.toMatchObject(expected);
    });
  });

  it('generates with the defaults of the command', async () => {
    await expect(generateText({ model: '/no/folder', prompt: 'a' })).rejects.toThrow('expected a folder, found none');
  });
});
