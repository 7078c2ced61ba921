// Shapes and options objects as core checks them, and the nearest name for a slip of the pen.
import { expect, it } from 'vitest';
import { checkOptions, checkShape, nearest } from '../../lib/core/options.js';
import { raises } from './raises.js';

it('finds the nearest name, or none', () => {
  const names = ['keepdim', 'dtype', 'weight_decay', 'requiresGrad'];
  expect(nearest('keepdims', names)).toBe('keepdim');
  expect(nearest('dtpye', names)).toBe('dtype');
  expect(nearest('weightDecay', names)).toBe('weight_decay');
  expect(nearest('requires_grad', names)).toBe('requiresGrad');
  expect(nearest('temperature', names)).toBeNull();
  expect(nearest('x', [])).toBeNull();
});

it('names the unknown option, the nearest and the known ones', () => {
  checkOptions('f', undefined, ['dtype']);
  checkOptions('f', { dtype: 1 }, ['dtype']);
  const { message } = raises('BAD_ARGUMENT', () => checkOptions('f', { dtyp: 1 }, ['dtype', 'device']));
  expect(message).toBe("f: unknown option 'dtyp'; did you mean 'dtype'? (known are dtype, device)");
  expect(raises('BAD_ARGUMENT', () => checkOptions('f', { a: 1 }, [])).message).toContain('it takes none');
  for (const value of [null, 1, 'x', [], true]) raises('BAD_ARGUMENT', () => checkOptions('f', value, ['dtype']));
});

it('takes shapes whose product is exact', () => {
  expect(checkShape('f', [])).toEqual([]);
  expect(checkShape('f', [2, 0, 3])).toEqual([2, 0, 3]);
  for (const shape of [[-1], [0.5], ['1'], [Number.NaN], [2 ** 40, 2 ** 40], 3, null, undefined, [[1]]]) {
    raises('BAD_ARGUMENT', () => checkShape('f', shape));
  }
});
