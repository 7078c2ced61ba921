// The names of core, for the floors above it; lib/index.ts says which of them are public. Not here: any code.

export { type BackwardOptions, backward, type GradOptions, grad } from './backward.js';
export { alignedBytes, readBytes } from './bytes.js';
export { call, type OpArgument, opSchemas } from './call.js';
export { customFunction, type FunctionContext, type FunctionDefinition } from './custom-function.js';
export {
  cpuCapability,
  cudaDeviceCount,
  cudaDeviceName,
  isCudaAvailable,
  libtorchVersion,
  synchronize,
} from './devices.js';
export {
  DTYPES,
  type DType,
  dtypeBytes,
  isComplexDType,
  isDType,
  isFloatingDType,
  isIntegerDType,
  type Layout,
  type MemoryFormat,
  type TypedArray,
} from './dtype.js';
export { describe, ERRORS, type ErrorCode, ShardloopError } from './errors.js';
export { Generator } from './generator.js';
export * as memory from './memory.js';
export {
  type AutocastOptions,
  autocast,
  enableGrad,
  getNumThreads,
  isAutocastEnabled,
  isDeterministic,
  isGradEnabled,
  noGrad,
  profileRange,
  setDeterministic,
  setNumThreads,
} from './modes.js';
export type { Int, Scalar } from './op-support.js';
export * as ops from './ops.js';
export { getRandomState, manualSeed, setRandomState } from './random.js';
export { disposeAll, keep, owned, scope } from './scope.js';
export { type Span, span } from './spans.js';
export {
  arange,
  type Complex,
  type CreateOptions,
  empty,
  eye,
  full,
  type Index,
  type Item,
  isTensor,
  type Nested,
  ones,
  type RandomOptions,
  rand,
  randint,
  randn,
  Slice,
  slice,
  Tensor,
  type TensorData,
  tensor,
  zeros,
} from './tensor.js';
export { countWork, type WorkCount } from './work-count.js';
