// How an option is named: as a flag in what a command awaits, as a key everywhere else, also at the same time.
import { setImmediate as nextTurn } from 'node:timers/promises';
import { expect, it, vi } from 'vitest';
import { forCommand, nameAsFlags, named, nameOf, words } from '../../lib/core/option-names.js';

const all = () => [
  nameOf('loraRank'),
  named('--eval-split and --lr'),
  words`--lora-rank of ${'--x'}`,
  forCommand('c', 'p'),
];
const flags = ['--lora-rank', '--eval-split and --lr', '--lora-rank of --x', 'c'];
const keys = ['loraRank', 'evalSplit and lr', 'loraRank of --x', 'p'];

it('is a flag in a command, and a key in a program', () => {
  expect(all()).toEqual(keys);
  expect(nameAsFlags(all)).toEqual(flags);
  expect(all()).toEqual(keys);
});

it('is a flag in all of a process that is a command', async () => {
  vi.resetModules();
  const fresh = await import('../../lib/core/option-names.js');
  expect(fresh.nameOf('loraRank')).toBe('loraRank');
  fresh.processIsCommand();
  expect([fresh.nameOf('loraRank'), fresh.nameAsFlags(() => fresh.nameOf('lr'))]).toEqual(['--lora-rank', '--lr']);
});

it('stays so across waiting, while others go on in the same process', async () => {
  const twice = async () => {
    const before = all();
    for (let turn = 0; turn < 3; turn++) await nextTurn();
    return [before, all()];
  };
  const runs = await Promise.all([nameAsFlags(twice), twice(), nameAsFlags(twice), twice()]);
  expect(runs).toEqual([flags, keys, flags, keys].map((names) => [names, names]));
  const failing = async () => {
    await nextTurn();
    throw new Error(nameOf('loraRank'));
  };
  await expect(nameAsFlags(failing)).rejects.toThrow('--lora-rank');
  expect(all()).toEqual(keys);
});
