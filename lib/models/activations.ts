// Activation functions by the names that published configurations use.
// Not here: the modules GELU and SiLU of nn, for those who write a model themselves.
import { ops, ShardloopError, type Tensor } from '../core/index.js';
import { gelu } from '../nn/index.js';

const ACTIVATIONS: Readonly<Record<string, (x: Tensor) => Tensor>> = {
  gelu: (x) => ops.gelu(x),
  gelu_python: (x) => ops.gelu(x),
  gelu_10: (x) => ops.clamp(ops.gelu(x), { min: -10, max: 10 }),
  // The four spellings of the tanh approximation differ by rounding alone; ours is one pass.
  gelu_new: (x) => gelu(x, { approximate: 'tanh' }),
  gelu_fast: (x) => gelu(x, { approximate: 'tanh' }),
  gelu_accurate: (x) => gelu(x, { approximate: 'tanh' }),
  gelu_pytorch_tanh: (x) => gelu(x, { approximate: 'tanh' }),
  gelu_python_tanh: (x) => gelu(x, { approximate: 'tanh' }),
  quick_gelu: (x) => ops.mul(x, ops.sigmoid(ops.mul(x, 1.702))),
  relu: (x) => ops.relu(x),
  relu2: (x) => ops.square(ops.relu(x)),
  relu6: (x) => ops.hardtanh(x, { min_val: 0, max_val: 6 }),
  leaky_relu: (x) => ops.leaky_relu(x),
  silu: (x) => ops.silu(x),
  swish: (x) => ops.silu(x),
  hardswish: (x) => ops.hardswish(x),
  mish: (x) => ops.mish(x),
  sigmoid: (x) => ops.sigmoid(x),
  tanh: (x) => ops.tanh(x),
  sqrtsoftplus: (x) => ops.sqrt(ops.softplus(x)),
  laplace: (x) => ops.mul(ops.add(ops.erf(ops.mul(ops.sub(x, Math.SQRT1_2), Math.SQRT1_2 / 0.282095)), 1), 0.5),
  linear: (x) => x,
};

/** Whether a name stands for GELU by its tanh approximation. */
export function isTanhGelu(name: string): boolean {
  return /^gelu_(new|fast|accurate|pytorch_tanh|python_tanh)$/.test(name);
}

/** The names that {@link activation} knows. */
export const ACTIVATION_NAMES: readonly string[] = Object.keys(ACTIVATIONS);

/** The function of one of {@link ACTIVATION_NAMES}, element by element. Throws BAD_MODEL for another name. */
export function activation(name: string): (x: Tensor) => Tensor {
  if (Object.hasOwn(ACTIVATIONS, name)) return ACTIVATIONS[name]!;
  throw new ShardloopError(
    'BAD_MODEL',
    `activation_function: expected one of ${ACTIVATION_NAMES.join(', ')}; received ${JSON.stringify(name)}`,
  );
}
