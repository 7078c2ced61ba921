// Learning-rate schedules: pure functions from the number of finished steps to a factor on the base rate, and the small
// object that sets it on an optimizer's groups and remembers the step.
import { describe, ShardloopError } from '../core/index.js';
import type { Optimizer, PlainValue } from './optimizer.js';

/** The factor on the base learning rate for the update after `step` finished ones (0 for the first). */
export type Factor = (step: number) => number;

/** Options of every schedule. */
export interface WarmupOptions {
  /** Steps of warm-up: the factor rises as (step + 1) / (warmup + 1) before it (default 0: none). */
  warmup?: number;
}

/** Options of schedules that end. */
export interface DecayOptions extends WarmupOptions {
  /** Number of steps of the whole run; from there on the factor is `final`. */
  total: number;
  /** The factor at the end, in [0, 1] (default 0). */
  final?: number;
}

/** Options of {@link wsd}. */
export interface WsdOptions extends DecayOptions {
  /** Steps of the decay at the end of the run. */
  decay: number;
  /** How it falls: in a line (default) or as 1 - sqrt(x), which falls early. */
  shape?: 'linear' | 'sqrt';
}

/** 1 after the warm-up. */
export function constant(options: WarmupOptions = {}): Factor {
  return warm(options, () => 1);
}

/** From 1 after the warm-up in a line to `final` at `total`. */
export function linear(options: DecayOptions): Factor {
  const { total, warmup, final } = checkDecay('linear', options);
  return warm(options, (step) => between(1, final, progress(step, warmup, total)));
}

/** From 1 after the warm-up along half a cosine to `final` at `total`. */
export function cosine(options: DecayOptions): Factor {
  const { total, warmup, final } = checkDecay('cosine', options);
  return warm(options, (step) => between(final, 1, 0.5 * (1 + Math.cos(Math.PI * progress(step, warmup, total)))));
}

/** Warm-up, stable, decay: 1 until `total - decay`, then down to `final` at `total`. */
export function wsd(options: WsdOptions): Factor {
  const { total, warmup, final } = checkDecay('wsd', options);
  const { decay, shape = 'linear' } = options;
  checkSteps('wsd: decay', decay);
  if (warmup + decay > total) refuse('wsd', `warmup + decay of at most total (${total})`, warmup + decay);
  if (shape !== 'linear' && shape !== 'sqrt') refuse('wsd', "shape to be 'linear' or 'sqrt'", shape);
  return warm(options, (step) => {
    const x = progress(step, total - decay, total);
    return between(1, final, shape === 'sqrt' ? Math.sqrt(x) : x);
  });
}

function warm({ warmup = 0 }: WarmupOptions, after: Factor): Factor {
  checkSteps('schedule: warmup', warmup);
  return (step) => (step < warmup ? (step + 1) / (warmup + 1) : after(step));
}

function progress(step: number, from: number, to: number): number {
  if (step >= to) return 1;
  return step <= from ? 0 : (step - from) / (to - from);
}

function between(a: number, b: number, x: number): number {
  return a + (b - a) * x;
}

function checkDecay(name: string, options: DecayOptions): { total: number; warmup: number; final: number } {
  const { total, warmup = 0, final = 0 } = options;
  checkSteps(`${name}: total`, total);
  checkSteps(`${name}: warmup`, warmup);
  if (warmup > total) refuse(name, `warmup of at most total (${total})`, warmup);
  if (!(final >= 0 && final <= 1)) refuse(name, 'final in [0, 1]', final);
  return { total, warmup, final };
}

function checkSteps(name: string, value: unknown): void {
  if (!Number.isSafeInteger(value) || (value as number) < 0) refuse(name, 'a number of steps of at least 0', value);
}

function refuse(name: string, expected: string, received: unknown): never {
  throw new ShardloopError('BAD_ARGUMENT', `${name}: expected ${expected}, received ${describe(received)}`);
}

/** Sets `lr` of an optimizer's groups to `baseLr` times a factor: at once for the first step, then at each advance(). */
export class Schedule {
  readonly #optimizer: Optimizer;
  readonly #factor: Factor;
  #step = 0;

  constructor(optimizer: Optimizer, factor: Factor) {
    this.#optimizer = optimizer;
    this.#factor = factor;
    this.#apply();
  }

  /** Finished steps. */
  get step(): number {
    return this.#step;
  }

  /** The learning rate of the first group, for the coming update. */
  get lr(): number {
    return this.#optimizer.groups[0]!.lr;
  }

  /** Call it after each update of the optimizer. */
  advance(): void {
    this.#step++;
    this.#apply();
  }

  #apply(): void {
    const factor = this.#factor(this.#step);
    if (!Number.isFinite(factor)) refuse('schedule', `a finite factor for step ${this.#step}`, factor);
    for (const group of this.#optimizer.groups) group.lr = group.baseLr * factor;
  }

  /** What a checkpoint holds of it. */
  stateDict(): { step: number } {
    return { step: this.#step };
  }

  /** Load the optimizer's state first: the rates are set again from its `baseLr`. */
  loadStateDict(state: { readonly step?: PlainValue }): void {
    checkSteps('schedule: step', state.step);
    this.#step = state.step as number;
    this.#apply();
  }
}
