// Replays a case of ops.py through the bridge: inputs are made from bytes, the recorded overloads are called one by one
// through call(), gradients are taken by our backward. It compares nothing; ops.test.ts does.
import { backward, call, grad, manualSeed, type OpArgument, Tensor, tensor } from '../../lib/core/index.js';
import { type HostTensor, toHost, typedArray } from './python.js';

/** An argument as ops_record.py encodes it: a JSON value, or an object whose only tag says what JSON cannot. */
export type Encoded = null | boolean | number | string | Encoded[] | Tagged;
type Tagged =
  | { t: number }
  | { u: 1 }
  | { i: string }
  | { f: number | string; scalar: boolean }
  | { c: [string, string] }
  | { dtype: string }
  | { layout: string }
  | { memory_format: string }
  | { device: string };

export interface Case {
  entry: string;
  dtype: string;
  sample: number;
  seed: number;
  /** The prefix of the case's tensors in the batch's file: `<number>.<in|out|cotangent|grad>.<id>`. */
  number: number;
  calls: { op: string; args: Encoded[]; outs: (number | null)[] }[];
  inputs: Record<string, { size: number[]; view: { stride: number[]; offset: number } | null; grad: boolean }>;
  outputs: number[];
  roots: number[];
  leaves: number[];
  noGradient: string | null;
}

export interface Replayed {
  outputs: Map<number, HostTensor>;
  /** null: no gradient reached this leaf. */
  gradients: Map<number, HostTensor | null>;
}

/** Runs one case. Call it inside a scope. */
export function replay(one: Case, given: ReadonlyMap<string, HostTensor>): Replayed {
  const values = new Map<number, Tensor>();
  for (const [id, about] of Object.entries(one.inputs)) {
    const flat = fromHost(given.get(`${one.number}.in.${id}`)!);
    const { view } = about;
    const made = view ? (call('aten::as_strided', flat, about.size, view.stride, view.offset) as Tensor) : flat;
    if (about.grad) made.requiresGrad = true;
    values.set(Number(id), made);
  }
  manualSeed(one.seed);
  for (const { op, args, outs } of one.calls) {
    const results = flatten(call(op, ...args.map((a) => decode(a, values) as OpArgument)));
    outs.forEach((id, i) => {
      if (id !== null && results[i] instanceof Tensor) values.set(id, results[i]);
    });
  }
  const outputs = new Map(one.outputs.map((id) => [id, toHost(values.get(id)!)]));
  return { outputs, gradients: one.leaves.length === 0 ? new Map() : gradientsOf(one, given, values) };
}

/** By grad() for even samples and by backward() with `.grad` for odd ones, so that both doors are used. */
function gradientsOf(one: Case, given: ReadonlyMap<string, HostTensor>, values: Map<number, Tensor>) {
  const roots = one.roots.map((id) => values.get(id)!);
  const leaves = one.leaves.map((id) => values.get(id)!);
  const gradients = one.roots.map((id) => fromHost(given.get(`${one.number}.cotangent.${id}`)!));
  let found: (Tensor | null)[];
  if (one.sample % 2 === 0) {
    found = grad(roots, leaves, { gradients, allowUnused: true });
  } else {
    backward(roots, gradients);
    found = leaves.map((leaf) => leaf.grad);
  }
  return new Map(one.leaves.map((id, i) => [id, found[i] ? toHost(found[i]) : null]));
}

function fromHost(host: HostTensor): Tensor {
  const options = { shape: [...host.shape], dtype: host.dtype } as Parameters<typeof tensor>[1];
  if (!host.dtype.startsWith('complex')) return tensor(typedArray(host), options);
  const dtype = host.dtype === 'complex64' ? 'float32' : 'float64';
  const pairs = tensor(typedArray(host), { shape: [...host.shape, 2], dtype });
  return call('aten::clone', call('aten::view_as_complex', pairs) as Tensor) as Tensor; // a tensor, not a view of one
}

function decode(value: Encoded, values: ReadonlyMap<number, Tensor>): unknown {
  if (Array.isArray(value)) return value.map((v) => decode(v, values));
  if (value === null || typeof value !== 'object') return value;
  if ('t' in value) return values.get(value.t);
  if ('u' in value) return undefined;
  if ('i' in value) return BigInt(value.i);
  if ('f' in value) return value.scalar ? { float: toNumber(value.f) } : toNumber(value.f);
  if ('c' in value) return { re: toNumber(value.c[0]), im: toNumber(value.c[1]) };
  return Object.values(value)[0];
}

const toNumber = (text: number | string) => Number(String(text).replace('inf', 'Infinity'));

function flatten(result: unknown): unknown[] {
  return Array.isArray(result) ? result.flatMap(flatten) : [result];
}
