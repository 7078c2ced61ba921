// Loss scaling for float16 (Micikevicius et al., arXiv 1710.03740): the loss is multiplied before backward so that small
// gradients do not vanish, and the update divides by the same factor. Dynamic scaling halves the factor when gradients
// overflow, and doubles it after a number of steps without.
import { describe, ops, ShardloopError, type Tensor } from '../core/index.js';
import type { PlainValue } from './optimizer.js';

/** Options of {@link LossScaler}. */
export interface LossScalerOptions {
  /** The scale at the start (default 2^16); for good, if not dynamic. */
  initial?: number;
  /** Whether overflows lower the scale and steps without raise it (default true). */
  dynamic?: boolean;
  /** Factor of a rise; above 1 (default 2). */
  growth?: number;
  /** Factor of a fall; in (0, 1) (default 0.5). */
  backoff?: number;
  /** Steps without overflow before a rise (default 1000). */
  window?: number;
  /** The scale falls at every overflow from the `hysteresis`-th of a window on (default 2): one alone may be an accident. */
  hysteresis?: number;
  /** The least scale (default 1). An overflow at it is an error. */
  minimum?: number;
}

const DEFAULTS: Required<LossScalerOptions> = {
  ...{ initial: 2 ** 16, dynamic: true, growth: 2, backoff: 0.5, window: 1000, hysteresis: 2, minimum: 1 },
};

/**
 * The loss scale of a float16 run. In a loop of one's own:
 *
 *     scaler.scaleLoss(loss).backward();
 *     const { scale } = scaler;
 *     const { sum, nonFinite } = gradSquares(params);
 *     if (scaler.update(Number.isFinite(sum))) optimizer.step({ gradScale: 1 / scale });
 */
export class LossScaler {
  readonly #options: Required<LossScalerOptions>;
  #scale: number;
  #good = 0;
  #left: number;
  #skipped = 0;

  /** Throws BAD_ARGUMENT for options that make no sense. */
  constructor(options: LossScalerOptions = {}) {
    const given = Object.entries(options).filter(([, value]) => value !== undefined);
    const all = { ...DEFAULTS, ...Object.fromEntries(given) } as Required<LossScalerOptions>;
    for (const key of Object.keys(options)) {
      if (!Object.hasOwn(DEFAULTS, key)) refuse('options', Object.keys(DEFAULTS).join(', '), key);
    }
    const positive = (x: number): boolean => Number.isFinite(x) && x > 0;
    const whole = (x: number): boolean => Number.isSafeInteger(x) && x >= 1;
    if (!positive(all.minimum)) refuse('minimum', 'a positive number', all.minimum);
    if (!(positive(all.initial) && all.initial >= all.minimum))
      refuse('initial', `a number of at least the minimum ${all.minimum}`, all.initial);
    if (typeof all.dynamic !== 'boolean') refuse('dynamic', 'true or false', all.dynamic);
    if (!(Number.isFinite(all.growth) && all.growth > 1)) refuse('growth', 'a number above 1', all.growth);
    if (!(all.backoff > 0 && all.backoff < 1)) refuse('backoff', 'a number in (0, 1)', all.backoff);
    if (!whole(all.window)) refuse('window', 'a number of steps of at least 1', all.window);
    if (!whole(all.hysteresis)) refuse('hysteresis', 'a number of overflows of at least 1', all.hysteresis);
    this.#options = all;
    this.#scale = all.initial;
    this.#left = all.hysteresis;
  }

  /** What the loss of the coming step is multiplied by. */
  get scale(): number {
    return this.#scale;
  }

  /** Steps that were not applied, because gradients overflowed. */
  get skipped(): number {
    return this.#skipped;
  }

  /** The loss times the scale. */
  scaleLoss(loss: Tensor): Tensor {
    return ops.mul(loss, this.#scale);
  }

  /**
   * Call it once a step, on all ranks with the same `finite`: whether all scaled gradients are finite. Sets the scale for
   * the next step and returns whether this one is to be applied. Throws NON_FINITE on an overflow at the least scale
   * (of a fixed scale: at the first); `culprit` is the name of a tensor whose gradient overflowed.
   */
  update(finite: boolean, culprit?: string | null): boolean {
    const { dynamic, growth, backoff, window, hysteresis, minimum } = this.#options;
    if (finite) {
      this.#good++;
      if (dynamic && this.#good % window === 0) {
        this.#left = hysteresis;
        // Beyond float32's range the loss itself would overflow.
        if (this.#scale * growth < 2 ** 127) this.#scale *= growth;
      }
      return true;
    }
    if (!dynamic || this.#scale <= minimum) throw overflow(this.#scale, dynamic, culprit);
    this.#skipped++;
    this.#good = 0;
    if (this.#left > 1) this.#left--;
    else this.#scale = Math.max(minimum, this.#scale * backoff);
    return false;
  }

  /** What a checkpoint holds of it. */
  stateDict(): { readonly [key: string]: PlainValue } {
    return { scale: this.#scale, good: this.#good, left: this.#left, skipped: this.#skipped };
  }

  /** Takes over counts and, if dynamic, the scale. Throws BAD_ARGUMENT when the state is not one of {@link stateDict}. */
  loadStateDict(state: { readonly [key: string]: PlainValue }): void {
    const numbers = ['scale', 'good', 'left', 'skipped'].map((key) => {
      const value = state[key];
      if (typeof value === 'number' && Number.isFinite(value) && value >= 0) return value;
      return refuse(`loadStateDict: ${key}`, 'a number of at least 0', value);
    });
    const [scale, good, left, skipped] = numbers as [number, number, number, number];
    const { dynamic, minimum } = this.#options;
    if (dynamic) this.#scale = Math.max(scale, minimum);
    [this.#good, this.#left, this.#skipped] = [good, left, skipped];
  }
}

function overflow(scale: number, dynamic: boolean, culprit: string | null | undefined): ShardloopError {
  const where =
    culprit === undefined || culprit === null ? 'a gradient (of another rank)' : `the gradient of ${culprit}`;
  return new ShardloopError(
    'NON_FINITE',
    `float16: ${where} is infinite or NaN at ${dynamic ? 'the least' : 'the fixed'} loss scale ${scale}, expected finite gradients. ` +
      'Lower the learning rate, clip, or train in bfloat16, whose range is that of float32.',
  );
}

function refuse(name: string, expected: string, received: unknown): never {
  throw new ShardloopError('BAD_ARGUMENT', `LossScaler: ${name}: expected ${expected}, received ${describe(received)}`);
}
