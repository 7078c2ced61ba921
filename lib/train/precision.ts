// What --precision stands for: the dtype of the weights, whether what trains has fp32 masters, in what the products are
// computed, and the loss scale that fp16 needs.
import { autocast } from '../core/index.js';
import { LossScaler } from '../optim/index.js';
import type { TrainingConfig } from './config.js';

type Precision = TrainingConfig['precision'];

const WEIGHTS = { fp32: 'float32', bf16: 'bfloat16', fp16: 'float16', 'bf16-autocast': 'float32' } as const;

/** The dtype of the weights. */
export function weightDtype(precision: Precision): 'float32' | 'bfloat16' | 'float16' {
  return WEIGHTS[precision];
}

/** Whether what trains has fp32 masters. */
export function hasMasters(precision: Precision): boolean {
  return WEIGHTS[precision] !== 'float32';
}

/** The dtype in which matrices are multiplied. */
export function productDtype(precision: Precision): 'float32' | 'bfloat16' | 'float16' {
  return precision === 'bf16-autocast' ? 'bfloat16' : WEIGHTS[precision];
}

/** What runs around forward and backward: autocast, or nothing. */
export function precisionScope(precision: Precision, device: string): <T>(fn: () => T) => T {
  if (precision !== 'bf16-autocast') return (fn) => fn();
  return (fn) => autocast({ dtype: 'bfloat16', device: device === 'cpu' ? 'cpu' : 'cuda' }, fn);
}

/** The loss scale of an fp16 run; null for other precisions. */
export function makeScaler(config: TrainingConfig): LossScaler | null {
  if (config.precision !== 'fp16') return null;
  const { lossScale, lossScaleInitial, lossScaleWindow, lossScaleHysteresis, minLossScale } = config;
  if (lossScale !== 'dynamic') return new LossScaler({ dynamic: false, initial: lossScale, minimum: lossScale });
  return new LossScaler({
    initial: lossScaleInitial,
    window: lossScaleWindow,
    hysteresis: lossScaleHysteresis,
    minimum: minLossScale,
  });
}
