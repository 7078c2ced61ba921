// The base class of everything that has parameters. An author writes fields and `forward`; this file finds the fields
// (members.ts) and makes every forward a scope (below). Moving data in and out of a module is state.ts.
//
// Lifetimes: parameters and buffers live until dispose(). What a forward makes dies with its call, except what it
// returns; a cache that must live longer is taken out with keep() and disposed by whoever keeps it.
import { inspect } from 'node:util';
import { type DType, ShardloopError, scope, type Tensor } from '../core/index.js';
import { IS_MODULE, isModule, membersOf } from './members.js';
import { isDifferentiable, type Mark } from './parameter.js';
import { printModule } from './print.js';
import type { Segment } from './segment.js';
import { type LoadOptions, type LoadResult, loadStateDict, moveTensors, stateDict } from './state.js';

/**
 * A part of a model. Subclasses hold parameters ({@link parameter}), buffers ({@link buffer}) and other modules in plain
 * fields, in arrays or in plain objects, and define `forward`. Every forward runs in a scope: the tensors that it makes
 * are freed when it returns, except those in what it returns (tensors, arrays, plain objects, Maps).
 */
export abstract class Module {
  /** True while training; Dropout reads it. Set it with `train()` and `eval()`. */
  training = true;

  constructor() {
    scopeForward(new.target.prototype as object);
  }

  /** The computation. Call it directly: `model.forward(x)`. */
  abstract forward(...args: never[]): unknown;

  /** The parts between which a training loop may cut the graph; a model without this method is one segment. */
  segments?(): Segment[];

  /** The modules directly inside this one, with their names. */
  children(): [string, Module][] {
    const found: [string, Module][] = [];
    for (const { path, value } of membersOf(this)) if (isModule(value)) found.push([path, value]);
    return found;
  }

  /** This module (named '') and all modules inside it, each once, parents first. */
  namedModules(): [string, Module][] {
    const found: [string, Module][] = [];
    const seen = new Set<Module>();
    const visit = (name: string, module: Module): void => {
      if (seen.has(module)) return;
      seen.add(module);
      found.push([name, module]);
      for (const [path, child] of module.children()) visit(join(name, path), child);
    };
    visit('', this);
    return found;
  }

  /** All parameters with their dotted names, each tensor once (a tied weight under its first name). */
  namedParameters(): [string, Tensor][] {
    return unique(namedTensors(this).filter(([, , mark]) => mark.kind === 'parameter'));
  }

  /** All parameters, each once. */
  parameters(): Tensor[] {
    return this.namedParameters().map(([, t]) => t);
  }

  /** All buffers with their dotted names, each tensor once. */
  namedBuffers(): [string, Tensor][] {
    return unique(namedTensors(this).filter(([, , mark]) => mark.kind === 'buffer'));
  }

  /**
   * Parameters and persistent buffers by name: the live tensors, not copies. A tied weight stands under each of its
   * names.
   */
  stateDict(): Map<string, Tensor> {
    return stateDict(this);
  }

  /**
   * Copies the tensors of `state` into this module's, converting dtype and device. Unless `strict` is false, missing
   * and unexpected names are an error that lists them (a tied weight is there when one of its names is); a wrong shape
   * always is one. With `assign` the given tensors themselves become the module's, uncopied and in their own dtype,
   * and the module owns them. Throws BAD_ARGUMENT.
   */
  loadStateDict(state: ReadonlyMap<string, Tensor>, options?: LoadOptions): LoadResult {
    return loadStateDict(this, state, options);
  }

  /** Puts this module and all inside it into training mode, or with `false` into evaluation mode. */
  train(mode = true): this {
    for (const [, module] of this.namedModules()) module.training = mode;
    return this;
  }

  /** Evaluation mode: `train(false)`. */
  eval(): this {
    return this.train(false);
  }

  /**
   * Moves parameters and buffers to a device and converts the floating ones to a dtype, in place: the Tensor objects
   * stay the same, so an optimizer made earlier still holds them.
   */
  to(target: { dtype?: DType; device?: string }): this {
    moveTensors(this, target);
    return this;
  }

  /** Freezes (`false`) or unfreezes all parameters that can carry gradients. */
  requiresGrad(on = true): this {
    for (const t of this.parameters()) if (isDifferentiable(t)) t.requiresGrad = on;
    return this;
  }

  /** Drops the gradients of all parameters. */
  zeroGrad(): void {
    for (const t of this.parameters()) t.grad = null;
  }

  /** The module at a dotted name ('transformer.h.0.attn'); '' is this one. Throws BAD_ARGUMENT when there is none. */
  getSubmodule(path: string): Module {
    return path === '' ? this : this.#locate(path).module;
  }

  /** Puts `module` in the place of the one at a dotted name. The replaced one is returned, not disposed. */
  setSubmodule(path: string, module: Module): Module {
    if (!isModule(module)) {
      throw new ShardloopError(
        'BAD_ARGUMENT',
        `setSubmodule("${path}"): expected a Module, received ${inspect(module)}`,
      );
    }
    const { holder, key, module: replaced } = this.#locate(path);
    holder[key] = module;
    return replaced;
  }

  #locate(path: string): { holder: Record<string, unknown>; key: string; module: Module } {
    for (const { path: name, holder, key, value } of membersOf(this)) {
      if (!isModule(value)) continue;
      if (path === name) return { holder, key, module: value };
      if (path.startsWith(`${name}.`)) return value.#locate(path.slice(name.length + 1));
    }
    const names = this.children().map(([name]) => name);
    throw new ShardloopError(
      'BAD_ARGUMENT',
      `no submodule "${path}" in ${this.constructor.name}; it has ${names.length === 0 ? 'none' : names.join(', ')}`,
    );
  }

  /** Frees all parameters and buffers, and their gradients. The module cannot be used afterwards. */
  dispose(): void {
    for (const [, t] of [...this.namedParameters(), ...this.namedBuffers()]) {
      if (t.isDisposed) continue;
      t.grad = null;
      t.dispose();
    }
  }

  /** {@link dispose}, for `using`. */
  [Symbol.dispose](): void {
    this.dispose();
  }

  /** What stands in the parentheses when the module is printed: 'in=768, out=768'. Override it. */
  extraRepr(): string {
    return '';
  }

  /** The tree of modules, as console.log shows it. */
  toString(): string {
    return printModule(this);
  }

  /** What console.log prints. */
  [inspect.custom](): string {
    return printModule(this);
  }
}

Object.defineProperty(Module.prototype, IS_MODULE, { value: true });

/** A module that maps one tensor to one tensor, such as Linear or Dropout. */
export interface UnaryModule extends Module {
  forward(x: Tensor): Tensor;
}

/** Every marked tensor under every name that it has, a module's own before its submodules'. */
export function namedTensors(root: Module): [string, Tensor, Mark][] {
  const found: [string, Tensor, Mark][] = [];
  const visit = (module: Module, prefix: string, above: Set<Module>): void => {
    const inner: [string, Module][] = [];
    for (const { path, value, mark } of membersOf(module)) {
      if (mark !== null) found.push([prefix + path, value as Tensor, mark]);
      else inner.push([path, value as Module]);
    }
    for (const [path, child] of inner) {
      // A module may stand in two places (its tensors then have two names), but not inside itself.
      if (!above.has(child)) visit(child, `${prefix}${path}.`, new Set(above).add(child));
    }
  };
  visit(root, '', new Set([root]));
  return found;
}

function unique(named: [string, Tensor, Mark][]): [string, Tensor][] {
  const seen = new Set<Tensor>();
  const found: [string, Tensor][] = [];
  for (const [name, t] of named) {
    if (seen.has(t)) continue;
    seen.add(t);
    found.push([name, t]);
  }
  return found;
}

function join(prefix: string, name: string): string {
  return prefix === '' ? name : `${prefix}.${name}`;
}

const scoped = new WeakSet<object>();

/**
 * Wraps `forward` of a class, and of the classes it extends, in a scope; once per class, when its first instance is
 * made. A `super.forward()` is then a scope inside a scope, which is right: its result is handed to the outer one.
 */
function scopeForward(prototype: object): void {
  for (let owner = prototype; owner !== Module.prototype; owner = Object.getPrototypeOf(owner) as object) {
    const inner = Object.getOwnPropertyDescriptor(owner, 'forward')?.value as Module['forward'] | undefined;
    if (typeof inner !== 'function' || scoped.has(inner)) continue;
    const forward = function (this: Module, ...args: never[]): unknown {
      return scope(() => inner.apply(this, args));
    };
    scoped.add(forward);
    Object.defineProperty(owner, 'forward', { value: forward, writable: true, configurable: true });
  }
}
