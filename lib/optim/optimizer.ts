// What all optimizers share: groups, the state of each parameter, the frame of a step, and the state dict.
//
// Lifetimes: the state of a parameter is made at its first step and lives until dispose(). Everything else that a step
// makes is freed before it returns.
import { describe, isTensor, keep, noGrad, ops, ShardloopError, scope, type Tensor } from '../core/index.js';
import { type Group, makeGroups, type OptimizerOptions } from './groups.js';
import type { Place } from './place.js';

/** Options of {@link Optimizer.step}. */
export interface StepOptions {
  /**
   * Factor on the gradients (default 1): one over the tokens of the batch, times the clipping coefficient, over the loss
   * scale. It is part of the update; the gradients themselves stay as they are.
   */
  gradScale?: number;
}

/** A plain value that JSON can hold. */
export type PlainValue =
  | null
  | boolean
  | number
  | string
  | readonly PlainValue[]
  | { readonly [key: string]: PlainValue };

/** State in two parts: tensors by name (for a safetensors file) and plain values (for JSON). */
export interface OptimizerState {
  /** The live tensors, not copies. */
  readonly tensors: Map<string, Tensor>;
  readonly values: { readonly [key: string]: PlainValue };
}

/** What a training loop needs of an optimizer. */
export interface Optimizer {
  /** The groups; `lr` of a group may be changed between steps. */
  readonly groups: readonly Group<{ lr: number }>[];
  /** Makes the state of every parameter now instead of at its first step, so that all memory is taken before training. */
  prepare(): void;
  /** Updates every parameter that has a gradient. */
  step(options?: StepOptions): void;
  /** Drops all gradients. */
  zeroGrad(): void;
  /** State and settings by parameter name; independent of how the work is split over processes. */
  stateDict(): OptimizerState;
  /** Takes over state and settings, the learning rates included. Throws BAD_ARGUMENT when they do not fit. */
  loadStateDict(state: OptimizerState): void;
  /** Frees the state. */
  dispose(): void;
}

/** What an optimizer remembers about one parameter. */
export interface ParameterState {
  /** Updates so far. */
  step: number;
  readonly tensors: Record<string, Tensor>;
}

/** A parameter whose turn it is. `state.step` already counts this update. */
export interface Update {
  readonly param: Tensor;
  /** In the parameter's dtype, or in half precision or float32 where that differs. */
  readonly grad: Tensor;
  /** The half-precision parameter whose master `param` is, and which receives the result too; null without one. */
  readonly half: Tensor | null;
  readonly state: ParameterState;
}

/** Base of the optimizers here. H is the settings of a group. */
export abstract class BaseOptimizer<H extends { lr: number }> implements Optimizer {
  readonly groups: readonly Group<H>[];
  readonly #state = new Map<Tensor, ParameterState>();
  readonly #place: Place | undefined;
  #halves: ReadonlyMap<Tensor, Tensor> = new Map();

  constructor(options: OptimizerOptions<H>, defaults: H, check: (settings: H) => void) {
    this.groups = makeGroups(new.target.name, options, defaults, check);
    this.#place = options.place;
  }

  /** Makes the state tensors of a parameter. */
  protected abstract start(param: Tensor, group: Group<H>): Record<string, Tensor>;

  /**
   * Tells which parameters are masters, and of what: each takes its gradient from the half-precision parameter, and a step
   * rounds its result into it. {@link MasterWeights} calls it.
   */
  masterFor(halves: ReadonlyMap<Tensor, Tensor>): void {
    this.#halves = halves;
  }

  /** Whether update() is called for a group without gradients too, because it communicates. */
  protected get updatesTogether(): boolean {
    return false;
  }

  /** Updates the parameters of one group and their halves. Runs without gradient and in a scope. */
  protected abstract update(group: Group<H>, updates: readonly Update[], gradScale: number): void;

  prepare(): void {
    noGrad(() => {
      for (const group of this.groups) {
        for (const i of group.params.keys()) scope(() => this.#stateOf(group, i));
      }
    });
  }

  step(options: StepOptions = {}): void {
    const { gradScale = 1 } = options;
    if (typeof gradScale !== 'number' || !Number.isFinite(gradScale)) {
      throw new ShardloopError('BAD_ARGUMENT', `step: expected a finite gradScale, received ${describe(gradScale)}`);
    }
    noGrad(() => {
      for (const group of this.groups) {
        scope(() => {
          const updates: Update[] = [];
          for (const [i, param] of group.params.entries()) {
            const half = this.#halves.get(param) ?? null;
            const grad = (half ?? param).grad;
            if (grad === null) continue;
            const state = this.#stateOf(group, i);
            state.step++;
            updates.push({ param, grad, half, state });
          }
          if (updates.length > 0 || this.updatesTogether) this.update(group, updates, gradScale);
        });
      }
    });
  }

  #stateOf(group: Group<H>, i: number): ParameterState {
    const param = group.params[i]!;
    let state = this.#state.get(param);
    if (state === undefined) {
      state = { step: 0, tensors: keep(this.#begin(group, i)) };
      this.#state.set(param, state);
    }
    return state;
  }

  /** The first states of a parameter, where they are to live. */
  #begin(group: Group<H>, i: number): Record<string, Tensor> {
    const started = this.start(group.params[i]!, group);
    const place = this.#place;
    if (place === undefined) return started;
    const entries = Object.entries(started);
    return Object.fromEntries(entries.map(([field, t]) => [field, place(`${group.names[i]}.${field}`, t)]));
  }

  zeroGrad(): void {
    for (const { params } of this.groups) for (const param of params) param.grad = null;
  }

  stateDict(): OptimizerState {
    const tensors = new Map<string, Tensor>();
    const steps: Record<string, number> = {};
    const groups = this.groups.map(({ params, names, ...settings }) => {
      params.forEach((param, i) => {
        const state = this.#state.get(param);
        if (state === undefined) return;
        steps[names[i]!] = state.step;
        for (const [field, t] of Object.entries(state.tensors)) tensors.set(`${names[i]}.${field}`, t);
      });
      return { ...settings, names: [...names] } as unknown as PlainValue;
    });
    return { tensors, values: { kind: this.constructor.name, groups, steps } };
  }

  loadStateDict(state: OptimizerState): void {
    const { kind, groups, steps } = state.values as {
      kind?: string;
      groups?: SavedGroup[];
      steps?: Record<string, number>;
    };
    const where = `${this.constructor.name}.loadStateDict`;
    if (kind !== this.constructor.name || !Array.isArray(groups) || typeof steps !== 'object' || steps === null) {
      throw new ShardloopError(
        'BAD_ARGUMENT',
        `${where}: expected the state of ${this.constructor.name}, received that of ${describe(kind)}`,
      );
    }
    checkSameNames(where, groups, this.groups);
    const loaded = noGrad(() => scope(() => this.#readTensors(where, state.tensors, steps)));
    this.dispose();
    for (const [param, entry] of loaded) this.#state.set(param, entry);
    groups.forEach(({ names: _, ...settings }, i) => {
      Object.assign(this.groups[i]!, settings);
    });
  }

  /** Copies of the saved tensors, in dtype and place as a step would have made them. */
  #readTensors(
    where: string,
    saved: ReadonlyMap<string, Tensor>,
    steps: Record<string, number>,
  ): Map<Tensor, ParameterState> {
    const loaded = new Map<Tensor, ParameterState>();
    const unread = new Set(saved.keys());
    for (const group of this.groups) {
      group.params.forEach((param, i) => {
        const name = group.names[i]!;
        const step = steps[name];
        if (step === undefined) return;
        const tensors = this.#begin(group, i);
        for (const [field, t] of Object.entries(tensors)) {
          const given = saved.get(`${name}.${field}`);
          if (!isTensor(given) || given.shape.join() !== t.shape.join()) {
            const received = isTensor(given) ? `[${given.shape.join(', ')}]` : describe(given);
            throw new ShardloopError(
              'BAD_ARGUMENT',
              `${where}: expected "${name}.${field}" of shape [${t.shape.join(', ')}], received ${received}`,
            );
          }
          ops.copy_(t, given);
          unread.delete(`${name}.${field}`);
        }
        loaded.set(param, { step, tensors });
      });
    }
    if (unread.size > 0) {
      throw new ShardloopError(
        'BAD_ARGUMENT',
        `${where}: no parameter has the state ${[...unread].slice(0, 4).join(', ')}`,
      );
    }
    for (const { tensors } of loaded.values()) keep(tensors);
    return loaded;
  }

  dispose(): void {
    for (const { tensors } of this.#state.values()) for (const t of Object.values(tensors)) t.dispose();
    this.#state.clear();
  }
}

interface SavedGroup {
  readonly names: readonly string[];
}

function checkSameNames(
  where: string,
  saved: readonly SavedGroup[],
  own: readonly { names: readonly string[] }[],
): void {
  const [there, here] = [saved.flatMap(({ names }) => names), own.flatMap(({ names }) => names)];
  const missing = here.filter((name) => !there.includes(name));
  const unexpected = there.filter((name) => !here.includes(name));
  const same =
    saved.length === own.length && saved.every(({ names }, i) => names.join('\n') === own[i]!.names.join('\n'));
  if (same) return;
  const show = (names: string[]): string => (names.length === 0 ? 'none' : names.slice(0, 4).join(', '));
  throw new ShardloopError(
    'BAD_ARGUMENT',
    `${where}: expected ${own.length} groups with the same parameters in the same order, received ${saved.length}; missing: ${show(missing)}; unexpected: ${show(unexpected)}`,
  );
}

/** Throws BAD_ARGUMENT unless `value` is a finite number of at least `least` (and less than `below`, if given). */
export function checkNumber(name: string, value: unknown, least: number, below = Number.POSITIVE_INFINITY): void {
  if (typeof value === 'number' && value >= least && value < below) return;
  const range =
    below === Number.POSITIVE_INFINITY ? `a finite number of at least ${least}` : `a number in [${least}, ${below})`;
  throw new ShardloopError('BAD_ARGUMENT', `${name}: expected ${range}, received ${describe(value)}`);
}

/** Throws BAD_ARGUMENT unless `value` is two numbers in [0, 1). */
export function checkBetas(value: unknown): void {
  if (!Array.isArray(value) || value.length !== 2) {
    throw new ShardloopError('BAD_ARGUMENT', `betas: expected two numbers in [0, 1), received ${describe(value)}`);
  }
  for (const beta of value) checkNumber('betas', beta, 0, 1);
}

/** Throws BAD_ARGUMENT unless `value` is true or false. */
export function checkBoolean(name: string, value: unknown): void {
  if (typeof value === 'boolean') return;
  throw new ShardloopError('BAD_ARGUMENT', `${name}: expected true or false, received ${describe(value)}`);
}
