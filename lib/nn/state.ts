// A module's tensors as a map, back from a map, and onto another device or dtype. Files are lib/io's.
import {
  call,
  type DType,
  describe,
  isFloatingDType,
  keep,
  noGrad,
  ops,
  ShardloopError,
  scope,
  Tensor,
} from '../core/index.js';
import { isModule, membersOf } from './members.js';
import { type Module, namedTensors } from './module.js';
import { copyMark } from './parameter.js';

/** Options of {@link Module.loadStateDict}. */
export interface LoadOptions {
  /** Whether missing and unexpected names are an error (default true). */
  strict?: boolean;
  /** Take the given tensors themselves in place of the module's, instead of copying their values (default false). */
  assign?: boolean;
}

/** The names that did not fit, when `strict` is false. */
export interface LoadResult {
  readonly missing: string[];
  readonly unexpected: string[];
}

export function stateDict(root: Module): Map<string, Tensor> {
  const state = new Map<string, Tensor>();
  for (const [name, t, mark] of namedTensors(root)) if (mark.persistent) state.set(name, t);
  return state;
}

export function loadStateDict(
  root: Module,
  state: ReadonlyMap<string, Tensor>,
  { strict = true, assign = false }: LoadOptions = {},
): LoadResult {
  const own = stateDict(root);
  const covered = new Set([...own].filter(([name]) => state.has(name)).map(([, t]) => t));
  const missing = [...own].filter(([, t]) => !covered.has(t)).map(([name]) => name);
  const unexpected = [...state.keys()].filter((name) => !own.has(name));
  const problems: string[] = [];
  if (strict && missing.length > 0) problems.push(`missing: ${list(missing)}`);
  if (strict && unexpected.length > 0) problems.push(`unexpected: ${list(unexpected)}`);
  for (const [name, t] of own) {
    const given = state.get(name);
    if (given === undefined) continue;
    if (!(given instanceof Tensor)) problems.push(`"${name}": expected a Tensor, received ${describe(given)}`);
    else if (given.shape.join() !== t.shape.join()) {
      problems.push(`"${name}": expected shape [${t.shape.join(', ')}], received [${given.shape.join(', ')}]`);
    }
  }
  if (problems.length > 0) {
    const advice = missing.length + unexpected.length > 0 && strict ? '\n(strict: false loads the names that fit)' : '';
    throw new ShardloopError(
      'BAD_ARGUMENT',
      `the state dict does not fit ${root.constructor.name}:\n  ${problems.join('\n  ')}${advice}`,
    );
  }
  if (assign) assignTensors(root, state);
  else copyTensors(own, state);
  return { missing, unexpected };
}

function copyTensors(own: Map<string, Tensor>, state: ReadonlyMap<string, Tensor>): void {
  noGrad(() =>
    scope(() => {
      for (const [name, t] of own) {
        const given = state.get(name);
        if (given !== undefined && given !== t) ops.copy_(t, given);
      }
    }),
  );
}

/** Puts each given tensor into every field that held the tensor of its name; ties stay ties. */
function assignTensors(root: Module, state: ReadonlyMap<string, Tensor>): void {
  const replacement = new Map<Tensor, Tensor>();
  for (const [name, old] of stateDict(root)) {
    const given = state.get(name);
    if (given !== undefined && !replacement.has(old)) replacement.set(old, given);
  }
  replaceTensors([root], replacement);
}

/** Puts the new tensors into every field of these modules that held an old one; the old ones are freed. */
export function replaceTensors(roots: readonly Module[], replacement: ReadonlyMap<Tensor, Tensor>): void {
  for (const [, module] of roots.flatMap((root) => root.namedModules())) {
    for (const { holder, key, value } of membersOf(module)) {
      if (isModule(value)) continue;
      const given = replacement.get(value);
      if (given !== undefined) holder[key] = given;
    }
  }
  for (const [old, given] of replacement) {
    if (old === given) continue;
    given.requiresGrad = old.requiresGrad;
    copyMark(old, given);
    keep(given);
    old.grad = null;
    old.dispose();
  }
}

/** Moves every tensor of the module inside its own Tensor object, so that whoever holds it sees the new one. */
export function moveTensors(root: Module, { dtype, device }: { dtype?: DType; device?: string }): void {
  if (dtype !== undefined && !isFloatingDType(dtype)) {
    throw new ShardloopError(
      'BAD_ARGUMENT',
      `Module.to: expected a floating dtype (parameters of integers keep theirs), received ${dtype}`,
    );
  }
  noGrad(() =>
    scope(() => {
      for (const t of new Set(namedTensors(root).map(([, tensor]) => tensor))) {
        const target = { dtype: isFloatingDType(t.dtype) ? (dtype ?? t.dtype) : t.dtype, device: device ?? t.device };
        if (target.dtype === t.dtype && target.device === t.device) continue;
        const gradient = t.grad;
        t.grad = null;
        call('aten::set_data', t, ops._to_copy(t, target));
        if (gradient !== null) t.grad = ops._to_copy(gradient, target);
      }
    }),
  );
}

function list(names: string[]): string {
  const shown = names.slice(0, 8).join(', ');
  return names.length > 8 ? `${shown} and ${names.length - 8} more` : shown;
}
