// call(op, ...args): any op of the dispatcher by its full name, with Tensors in and out. The typed functions of ops.ts
// are the usual way; this one reaches what they leave out, and the ops of shardloop itself.
import { type NativeValue, native, raw } from './binding.js';
import { describe, ShardloopError } from './errors.js';
import './ops.js';
import { parseSchema, type Schema, type SchemaField } from './schema.js';
import { handleOf, isTensor, type Tensor, wrapOptional } from './tensor-class.js';

/** What an op takes: a value of its schema's type. `{ float: 2 }` is the float Scalar 2.0; null is None. */
export type OpArgument =
  | Tensor
  | null
  | undefined
  | number
  | bigint
  | boolean
  | string
  | { readonly float: number }
  | { readonly re: number; readonly im: number }
  | readonly OpArgument[];

/**
 * Calls `op`, for example `'aten::add.Tensor'`, with arguments by position as its schema lists them; undefined, and
 * arguments left off at the end, take the schema's default. The result is what the schema returns: Tensors, numbers,
 * arrays of them, an array for several results, undefined for none. An in-place op returns the Tensor passed in.
 * Throws UNKNOWN_OP, BAD_ARGUMENT, OP_REFUSED, or OP_FAILED with libtorch's own text.
 */
export function call(op: string, ...args: OpArgument[]): unknown {
  const { returns } = schemaOf(op);
  const passed = new Map<number, Tensor>();
  const result = raw(op, ...args.map((argument) => toNative(argument, passed)));
  if (returns.length === 0) return undefined;
  if (returns.length === 1) return fromNative(result, returns[0]!, passed);
  return (result as readonly NativeValue[]).map((part, i) => fromNative(part, returns[i]!, passed));
}

let schemas = new Map<string, string>();
const parsed = new Map<string, Schema>();

/** The text of the schema of every op that the dispatcher has, in order. */
export function opSchemas(): string[] {
  return native().schemas();
}

/** The schema of `op`. Throws UNKNOWN_OP. */
function schemaOf(op: string): Schema {
  let schema = parsed.get(op);
  if (schema === undefined) {
    if (typeof op !== 'string' || !op.includes('::')) {
      throw new ShardloopError('UNKNOWN_OP', `expected a name such as 'aten::add.Tensor', received ${describe(op)}`);
    }
    // Libraries may have registered ops since the last look.
    if (!schemas.has(op)) schemas = new Map(opSchemas().map((text) => [text.slice(0, text.indexOf('(')), text]));
    const text = schemas.get(op);
    if (text === undefined) {
      throw new ShardloopError('UNKNOWN_OP', `expected an op of the loaded libtorch, received '${op}'${near(op)}`);
    }
    schema = parseSchema(text);
    parsed.set(op, schema);
  }
  return schema;
}

function near(op: string): string {
  const base = op.split('.')[0]!;
  const others = [...schemas.keys()].filter((name) => name.split('.')[0] === base).slice(0, 8);
  return others.length > 0 ? `; its overloads are ${others.join(', ')}` : '';
}

function toNative(argument: OpArgument, passed: Map<number, Tensor>): NativeValue {
  if (typeof argument !== 'object' || argument === null) return argument;
  if (Array.isArray(argument)) return (argument as readonly OpArgument[]).map((part) => toNative(part, passed));
  if (isTensor(argument)) {
    const handle = handleOf(argument);
    passed.set(handle, argument);
    return handle;
  }
  return argument as NativeValue;
}

function fromNative(value: NativeValue, field: SchemaField, passed: Map<number, Tensor>): unknown {
  if (!OPAQUE.has(field.type.base)) return value;
  const one = (part: NativeValue): unknown => passed.get(part as number) ?? wrapOptional(part);
  return Array.isArray(value) ? (value as readonly NativeValue[]).map(one) : one(value);
}

/** Types whose values cross the door as handles. */
const OPAQUE = new Set(['Tensor', 'Generator', 'Storage']);
