// The header of safetensors as a pure function: round trips, every kind of damage by name, and fuzzing.
import { fc, test as property } from '@fast-check/vitest';
import { describe, expect, it } from 'vitest';
import type { DType } from '../../lib/core/dtype.js';
import { ShardloopError } from '../../lib/core/errors.js';
import {
  duplicateKey,
  encodeHeader,
  headerLength,
  MAX_HEADER_BYTES,
  parseHeader,
  type TensorSpec,
} from '../../lib/io/safetensors-header.js';

const text = (value: string) => new TextEncoder().encode(value);

/** Parses a header whose data is `dataBytes` long. */
function parse(json: string, dataBytes = 0) {
  const bytes = text(json);
  return parseHeader(bytes, 8 + bytes.byteLength + dataBytes, 'x.safetensors');
}

function refusal(run: () => unknown): ShardloopError {
  try {
    run();
  } catch (error) {
    expect(error).toBeInstanceOf(ShardloopError);
    expect((error as ShardloopError).code).toBe('BAD_SAFETENSORS');
    expect((error as ShardloopError).message).toContain('x.safetensors');
    return error as ShardloopError;
  }
  throw new Error('expected an error');
}

const DTYPES: DType[] = [
  'float64',
  'float32',
  'float16',
  'bfloat16',
  'int64',
  'int32',
  'int16',
  'int8',
  'uint8',
  'bool',
];

describe('the header of a safetensors file', () => {
  it('reads dtype, shape, place and metadata', () => {
    const header = parse(
      '{"__metadata__":{"format":"pt"},"a":{"dtype":"BF16","shape":[2,3],"data_offsets":[0,12]},"b":{"dtype":"I64","shape":[],"data_offsets":[12,20]}}',
      20,
    );
    expect(header.metadata).toEqual({ format: 'pt' });
    expect(header.tensors.get('a')).toEqual({ dtype: 'bfloat16', shape: [2, 3], start: header.dataStart, bytes: 12 });
    expect(header.tensors.get('b')).toMatchObject({ dtype: 'int64', shape: [], bytes: 8 });
  });

  it('keeps names that objects treat specially', () => {
    const specs = new Map<string, TensorSpec>(
      ['10', '2', '__proto__', 'constructor', '', 'a\\"b', '名'].map((name) => [name, { dtype: 'int8', shape: [1] }]),
    );
    const { bytes, dataBytes } = encodeHeader(specs);
    const header = parseHeader(bytes.subarray(8), bytes.byteLength + dataBytes, 'x.safetensors');
    expect([...header.tensors.keys()].sort()).toEqual([...specs.keys()].sort());
  });

  it('allows empty tensors and no tensors', () => {
    expect(parse('{}').tensors.size).toBe(0);
    expect(parse('{"e":{"dtype":"F32","shape":[0,4],"data_offsets":[0,0]}}').tensors.get('e')?.bytes).toBe(0);
  });

  const a = (fields: string) => `{"a":{${fields}}}`;
  it.each([
    ['not UTF-8', () => parseHeader(new Uint8Array([0x7b, 0xff, 0x7d]), 11, 'x.safetensors'), /UTF-8/],
    ['not JSON', () => parse('{"a":'), /not valid JSON/],
    ['another kind of JSON', () => parse('[1]'), /must begin with "\{"/],
    [
      'a name twice',
      () =>
        parse(
          '{"a":{"dtype":"I8","shape":[1],"data_offsets":[0,1]},"a":{"dtype":"I8","shape":[1],"data_offsets":[0,1]}}',
          1,
        ),
      /"a" twice/,
    ],
    ['a key twice', () => parse(a('"dtype":"I8","dtype":"U8","shape":[1],"data_offsets":[0,1]'), 1), /"dtype" twice/],
    ['no object for a tensor', () => parse('{"a":1}'), /tensor "a": expected an object/],
    [
      'an unknown dtype',
      () => parse(a('"dtype":"F31","shape":[1],"data_offsets":[0,4]'), 4),
      /dtype "F31" is not one of/,
    ],
    [
      'a dtype from the prototype',
      () => parse(a('"dtype":"toString","shape":[1],"data_offsets":[0,4]'), 4),
      /is not one of/,
    ],
    ['no dtype', () => parse(a('"shape":[1],"data_offsets":[0,4]'), 4), /dtype undefined/],
    ['a negative size', () => parse(a('"dtype":"F32","shape":[-1],"data_offsets":[0,4]'), 4), /shape must be/],
    ['a fraction of a size', () => parse(a('"dtype":"F32","shape":[1.5],"data_offsets":[0,4]'), 4), /shape must be/],
    [
      'sizes whose product overflows',
      () => parse(a('"dtype":"F32","shape":[9007199254740991,9007199254740991],"data_offsets":[0,4]'), 4),
      /takes \d{30,} bytes/,
    ],
    ['one offset', () => parse(a('"dtype":"F32","shape":[1],"data_offsets":[0]'), 4), /two offsets/],
    ['offsets backwards', () => parse(a('"dtype":"F32","shape":[1],"data_offsets":[4,0]'), 4), /end before they begin/],
    ['offsets beyond the file', () => parse(a('"dtype":"F32","shape":[2],"data_offsets":[0,8]'), 4), /truncated/],
    [
      'a size that contradicts the shape',
      () => parse(a('"dtype":"F32","shape":[2],"data_offsets":[0,4]'), 4),
      /takes 8 bytes, its data_offsets hold 4/,
    ],
    [
      'an overlap',
      () =>
        parse(
          '{"a":{"dtype":"I8","shape":[2],"data_offsets":[0,2]},"b":{"dtype":"I8","shape":[2],"data_offsets":[1,3]}}',
          3,
        ),
      /tensor "b" overlaps tensor "a"/,
    ],
    [
      'a hole',
      () => parse('{"a":{"dtype":"I8","shape":[1],"data_offsets":[1,2]}}', 2),
      /1 bytes between the header and tensor "a"/,
    ],
    ['bytes left over', () => parse(a('"dtype":"I8","shape":[1],"data_offsets":[0,1]'), 5), /4 bytes after tensor "a"/],
    ['metadata that is no object', () => parse('{"__metadata__":[]}'), /__metadata__ must be an object/],
    ['metadata that is no string', () => parse('{"__metadata__":{"k":1}}'), /__metadata__\["k"\] must be a string/],
  ])('refuses %s', (_, run, message) => {
    expect(refusal(run).message).toMatch(message);
  });

  it('refuses a length that cannot be', () => {
    const prefix = (length: bigint) => {
      const bytes = new Uint8Array(8);
      new DataView(bytes.buffer).setBigUint64(0, length, true);
      return bytes;
    };
    expect(refusal(() => headerLength(new Uint8Array(3), 3, 'x.safetensors')).message).toMatch(/truncated/);
    expect(refusal(() => headerLength(prefix(100n), 20, 'x.safetensors')).message).toMatch(/only 12 follow/);
    expect(refusal(() => headerLength(prefix(2n ** 63n), 20, 'x.safetensors')).message).toMatch(/at most 100000000/);
    expect(headerLength(prefix(BigInt(MAX_HEADER_BYTES)), MAX_HEADER_BYTES + 8, 'x.safetensors')).toBe(
      MAX_HEADER_BYTES,
    );
  });

  it('refuses to write what the format cannot hold', () => {
    expect(() => encodeHeader(new Map([['c', { dtype: 'complex128' as const, shape: [1] }]]))).toThrow(/complex128/);
    expect(() => encodeHeader(new Map([['__metadata__', { dtype: 'int8' as const, shape: [1] }]]))).toThrow(/reserved/);
  });

  it('begins the data, and each tensor, on a multiple of its element', () => {
    const specs = new Map<string, TensorSpec>([
      ['odd', { dtype: 'uint8', shape: [3] }],
      ['wide', { dtype: 'float64', shape: [2] }],
      ['half', { dtype: 'bfloat16', shape: [5] }],
    ]);
    const { bytes, names, dataBytes } = encodeHeader(specs, { note: 'abc' });
    expect(names).toEqual(['wide', 'half', 'odd']);
    const header = parseHeader(bytes.subarray(8), bytes.byteLength + dataBytes, 'x.safetensors');
    expect(header.tensors.get('wide')!.start % 8).toBe(0);
    expect(header.tensors.get('half')!.start % 2).toBe(0);
  });
});

const specs = fc.dictionary(
  fc.string().filter((name) => name !== '__metadata__'),
  fc.record({ dtype: fc.constantFrom(...DTYPES), shape: fc.array(fc.nat({ max: 5 }), { maxLength: 4 }) }),
  { maxKeys: 8 },
);

describe('properties', () => {
  property.prop([specs, fc.dictionary(fc.string(), fc.string(), { maxKeys: 4 })])(
    'what is written reads back',
    (tensors, metadata) => {
      const map = new Map<string, TensorSpec>(Object.entries(tensors));
      const { bytes, dataBytes } = encodeHeader(map, metadata);
      const file = bytes.byteLength + dataBytes;
      expect(headerLength(bytes.subarray(0, 8), file, 'x.safetensors')).toBe(bytes.byteLength - 8);
      const header = parseHeader(bytes.subarray(8), file, 'x.safetensors');
      expect(header.tensors.size).toBe(map.size);
      for (const [name, { dtype, shape }] of map) expect(header.tensors.get(name)).toMatchObject({ dtype, shape });
      expect({ ...header.metadata }).toEqual({ ...metadata });
    },
  );

  property.prop([fc.uint8Array({ maxLength: 200 }), fc.nat()])(
    'any bytes give a header or BAD_SAFETENSORS',
    (bytes, size) => {
      onlyNamedErrors(() => parseHeader(bytes, size, 'x.safetensors'));
      onlyNamedErrors(() => headerLength(bytes, size, 'x.safetensors'));
    },
  );

  property.prop([fc.json(), fc.nat({ max: 100 })])('any JSON gives a header or BAD_SAFETENSORS', (json, size) => {
    onlyNamedErrors(() => parse(json, size));
  });

  property.prop([
    specs,
    fc.array(fc.tuple(fc.nat(), fc.integer({ min: 0, max: 255 })), { minLength: 1, maxLength: 6 }),
  ])('a damaged header is read as something sound or refused', (tensors, damage) => {
    const { bytes, dataBytes } = encodeHeader(new Map<string, TensorSpec>(Object.entries(tensors)));
    for (const [at, value] of damage) bytes[8 + (at % Math.max(1, bytes.byteLength - 8))] = value;
    onlyNamedErrors(() => {
      const header = parseHeader(bytes.subarray(8), bytes.byteLength + dataBytes, 'x.safetensors');
      for (const { start, bytes: length } of header.tensors.values()) {
        expect(start + length).toBeLessThanOrEqual(bytes.byteLength + dataBytes);
      }
    });
  });

  property.prop([fc.object({ withBigInt: false, withObjectString: true })])(
    'JSON.stringify never names a key twice',
    (value) => {
      expect(duplicateKey(JSON.stringify(value))).toBeNull();
    },
  );
});

function onlyNamedErrors(run: () => void): void {
  try {
    run();
  } catch (error) {
    if (!(error instanceof ShardloopError) || error.code !== 'BAD_SAFETENSORS') throw error;
  }
}
