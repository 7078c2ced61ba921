// Whole runs called by a program: what is wrong with its options is said by name, before anything is read.
import { describe, expect, it } from 'vitest';
import { consolidate, generateText, mergeAdapter } from '../../lib/train/index.js';

const functions: Record<string, (options?: unknown) => Promise<unknown>> = {
  generateText: generateText as never,
  mergeAdapter: mergeAdapter as never,
  consolidate: consolidate as never,
};

describe('a run called by a program', () => {
  it.each([
    ['generateText', undefined, 'generateText: expected an options object, received null'],
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

  it('generates with the defaults of the command', async () => {
    await expect(generateText({ model: '/no/folder', prompt: 'a' })).rejects.toThrow('expected a folder, found none');
  });
});
