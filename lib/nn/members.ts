// Finds what a module is made of by looking at its fields: marked tensors and modules, directly or in arrays and plain
// objects. Names come from the fields: `h: Block[]` gives "h.0", "h.1". No field is registered by hand.
// `#private` fields cannot be seen from outside and are not members.
import { ShardloopError, Tensor } from '../core/index.js';
import type { Module } from './module.js';
import { type Mark, markOf } from './parameter.js';

/** Stands on Module.prototype, so that this file knows modules without importing their class. */
export const IS_MODULE = Symbol('shardloop.module');

/** One member of a module and the place where it is held: `holder[key] === value`. */
export type Member = {
  /** The name inside the module: 'weight', 'h.0', 'heads.main'. */
  readonly path: string;
  readonly holder: Record<string, unknown>;
  readonly key: string;
} & ({ readonly value: Tensor; readonly mark: Mark } | { readonly value: Module; readonly mark: null });

/** Whether `value` is a Module. */
export function isModule(value: unknown): value is Module {
  return typeof value === 'object' && value !== null && IS_MODULE in value;
}

/** The members of one module in the order of its fields; not those of its submodules. */
export function membersOf(module: Module): Member[] {
  const found: Member[] = [];
  collect(module as unknown as Record<string, unknown>, '', found, new Set([module]));
  return found;
}

function collect(holder: Record<string, unknown>, prefix: string, found: Member[], seen: Set<unknown>): void {
  for (const key of Object.keys(holder)) {
    const value = holder[key];
    if (typeof value !== 'object' || value === null) continue;
    const path = prefix + key;
    if (isModule(value)) {
      found.push({ path, holder, key, value, mark: null });
    } else if (value instanceof Tensor) {
      const mark = markOf(value);
      if (mark !== undefined) found.push({ path, holder, key, value, mark });
      else refuseUnmarked(path, value);
    } else if (isContainer(value) && !seen.has(value)) {
      seen.add(value);
      collect(value, `${path}.`, found, seen);
    }
  }
}

/** A plain tensor is allowed as a field (a cache), but one that asks for gradients was surely meant as a parameter. */
function refuseUnmarked(path: string, value: Tensor): void {
  if (value.isDisposed || !value.requiresGrad || !value.isLeaf) return;
  throw new ShardloopError(
    'BAD_ARGUMENT',
    `the module's field "${path}" is a tensor that requires grad but no parameter; write nn.parameter(...) around it, or set requiresGrad to false`,
  );
}

function isContainer(value: object): value is Record<string, unknown> {
  if (Array.isArray(value)) return true;
  const prototype: unknown = Object.getPrototypeOf(value);
  return prototype === Object.prototype || prototype === null;
}
