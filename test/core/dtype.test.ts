// The table of dtypes against libtorch itself, and the helpers around it.
import { expect, it } from 'vitest';
import { native } from '../../lib/core/binding.js';
import {
  checkDType,
  dtypeOfArray,
  dtypeOfFacts,
  isComplexDType,
  isFloatingDType,
  isIntegerDType,
  isTypedArray,
} from '../../lib/core/dtype.js';
import { handleOf } from '../../lib/core/tensor-class.js';
import { DTYPES, type DType, dtypeBytes, isDType, ops, zeros } from '../../lib/index.js';
import { raises } from './raises.js';

const names = Object.keys(DTYPES) as DType[];

it.each(names)('%s is what libtorch says', (dtype) => {
  const t = zeros([2], { dtype });
  expect(t.dtype).toBe(dtype);
  expect(t.storageBytes).toBe(2 * dtypeBytes(dtype));
  expect(ops.is_complex(t)).toBe(isComplexDType(dtype));
  expect(ops.is_floating_point(t)).toBe(isFloatingDType(dtype));
  expect(t.dataSync().constructor.name).toBe(DTYPES[dtype].array);
  expect(isIntegerDType(dtype)).toBe(DTYPES[dtype].kind === 'int');
});

it.each(Object.keys(DTYPES) as DType[])('%s has the code that native code gives it', (dtype) => {
  const t = zeros([1], { dtype });
  expect(dtypeOfFacts(native().facts(handleOf(t)))).toBe(t.dtype);
  expect(t.dtype).toBe(dtype);
});

it('refuses other names', () => {
  for (const name of ['float', 'Float32', '', 3, null, undefined, 'constructor', 'toString']) {
    expect(isDType(name)).toBe(false);
    raises('BAD_ARGUMENT', () => checkDType(name));
    raises('BAD_ARGUMENT', () => dtypeBytes(name as never));
  }
});

it('knows typed arrays', () => {
  expect(isTypedArray(new Float32Array(1))).toBe(true);
  expect(isTypedArray(Buffer.alloc(1))).toBe(true);
  for (const value of [new DataView(new ArrayBuffer(1)), new ArrayBuffer(1), [1], null, 'x']) {
    expect(isTypedArray(value)).toBe(false);
  }
  raises('BAD_ARGUMENT', () => dtypeOfArray(new DataView(new ArrayBuffer(1)) as never));
});
