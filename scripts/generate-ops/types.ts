// Schema types as TypeScript: what a caller writes, what comes back, how a value crosses, and what kinds of JavaScript
// values a parameter accepts (merge.ts chooses overloads by them).
import type { Schema, SchemaArgument, SchemaField, SchemaType } from '../../lib/core/schema.js';
import { BASE_TYPES } from './select.js';

const isList = (type: SchemaType): boolean => type.suffixes.some((suffix) => suffix.startsWith('['));
const isNullable = (type: SchemaType): boolean => type.suffixes.at(-1) === '?';
const isSized = (type: SchemaType): boolean => type.suffixes.some((suffix) => /^\[\d+\]$/.test(suffix));

/** What a caller passes. */
export function parameterType(type: SchemaType): string {
  const base = BASE_TYPES[type.base]!;
  let text = base;
  if (isList(type)) {
    const element = type.suffixes[0] === '?' ? `(${base} | null)` : base;
    text = `readonly ${element}[]`;
    if (isSized(type) && base !== 'boolean') text = `${base} | ${text}`;
  }
  return isNullable(type) ? `${text} | null` : text;
}

/** What comes back from one result. */
function returnType(field: SchemaField, nullable: boolean): string {
  const base = { Int: 'number', Scalar: 'Item' }[BASE_TYPES[field.type.base]!] ?? BASE_TYPES[field.type.base]!;
  const text = isList(field.type) ? `${base}[]` : base;
  return nullable || isNullable(field.type) ? `${text} | null` : text;
}

/**
 * Whether the i-th of several results may be an undefined tensor: backwards give none for what was not asked, and the
 * attention kernels leave out what their own backward does not need.
 */
function mayBeUndefined(schema: Schema, i: number): boolean {
  if (schema.returns[i]!.type.base !== 'Tensor') return false;
  if (/^_scaled_dot_product/.test(schema.name) && i > 0) return true;
  return /backward/.test(schema.name) || schema.arguments.some((arg) => arg.name === 'output_mask');
}

/** What the function returns. */
export function resultType(schema: Schema): string {
  if (schema.returns.length === 0) return 'void';
  if (schema.returns.length === 1) return returnType(schema.returns[0]!, false);
  return `[${schema.returns.map((field, i) => returnType(field, mayBeUndefined(schema, i))).join(', ')}]`;
}

/** The argument whose object is the result, for an in-place op; -1 when results are new. */
export function returnedArgument(schema: Schema): number {
  const result = schema.returns[0];
  if (schema.returns.length !== 1 || !result?.written) return -1;
  return schema.arguments.findIndex((arg) => arg.written && arg.alias === result.alias);
}

/** Turns the native result (an expression) into what the function returns. */
export function wrapResult(schema: Schema, native: string): string {
  if (schema.returns.length === 0) return `${native};\n  return undefined;`;
  if (schema.returns.length === 1) return `return ${wrapOne(schema.returns[0]!, native, false)};`;
  const parts = schema.returns.map((field, i) => wrapOne(field, `result[${i}]`, mayBeUndefined(schema, i)));
  return `const result = list(${native});\n  return [${parts.join(', ')}];`;
}

function wrapOne(field: SchemaField, value: string, nullable: boolean): string {
  if (field.type.base !== 'Tensor') return `${value} as ${returnType(field, false)}`;
  if (isList(field.type)) return `list(${value}).map(w)`;
  return nullable || isNullable(field.type) ? `wn(${value})` : `w(${value})`;
}

/** An expression that turns a parameter into what crosses the door. `optional`: undefined stays undefined. */
export function crossing(arg: SchemaArgument, value: string, optional: boolean): string {
  if (arg.type.base === 'Generator') return `hgo(${value})`;
  if (arg.type.base !== 'Tensor') return value;
  const suffix = isList(arg.type) ? 's' : isNullable(arg.type) ? 'n' : '';
  return `h${suffix}${optional ? 'o' : ''}(${value})`;
}

/** The kinds of JavaScript values that a parameter takes. */
export type Kind =
  | 'tensor'
  | 'number'
  | 'bigint'
  | 'boolean'
  | 'scalar'
  | 'dtype'
  | 'device'
  | 'text'
  | 'tensors'
  | 'array'
  | 'null'
  | 'options'
  | 'absent';

const KINDS: Readonly<Record<string, readonly Kind[]>> = {
  Tensor: ['tensor'],
  Int: ['number', 'bigint'],
  number: ['number'],
  Scalar: ['number', 'bigint', 'boolean', 'scalar'],
  boolean: ['boolean'],
  DType: ['dtype'],
  Layout: ['text'],
  MemoryFormat: ['text'],
};

/** The kinds that `type` accepts. */
export function kindsOf(type: SchemaType): Set<Kind> {
  // A device and free text are both strings; only a device is ever told from a dtype.
  const element = type.base === 'Device' ? (['device'] as const) : (KINDS[BASE_TYPES[type.base]!] ?? ['text']);
  const kinds = new Set<Kind>();
  if (isList(type)) kinds.add(type.base === 'Tensor' ? 'tensors' : 'array');
  if (!isList(type) || isSized(type)) for (const kind of element) kinds.add(kind);
  if (isNullable(type)) kinds.add('null');
  return kinds;
}

/** A run-time test that a value is of one of these kinds. */
export function kindTest(kinds: ReadonlySet<Kind>, value: string): string {
  const tests: string[] = [];
  const has = (kind: Kind): boolean => kinds.has(kind);
  if (has('scalar')) tests.push(`isScalar(${value})`);
  else {
    if (has('number')) tests.push(`typeof ${value} === 'number'`);
    if (has('bigint')) tests.push(`typeof ${value} === 'bigint'`);
    if (has('boolean')) tests.push(`typeof ${value} === 'boolean'`);
  }
  if (has('tensor')) tests.push(`isTensor(${value})`);
  if (has('dtype')) tests.push(`isDType(${value})`);
  if (has('device')) tests.push(`isDevice(${value})`);
  if (has('text')) tests.push(`typeof ${value} === 'string'`);
  if (has('tensors')) tests.push(`isTensors(${value})`);
  if (has('array')) tests.push(`isPlainArray(${value})`);
  if (has('null')) tests.push(`${value} === null`);
  if (has('options')) tests.push(`isOptions(${value})`);
  if (has('absent')) tests.push(`${value} === undefined`);
  return tests.length === 1 ? tests[0]! : `(${tests.join(' || ')})`;
}
