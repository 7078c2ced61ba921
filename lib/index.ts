// The public exports of shardloop, by name. Not here: any code.

export { type BackwardOptions, backward, type GradOptions, grad } from './core/backward.js';
export { call, type OpArgument, opSchemas } from './core/call.js';
export { customFunction, type FunctionContext, type FunctionDefinition } from './core/custom-function.js';
export { cpuCapability, cudaDeviceCount, isCudaAvailable, libtorchVersion } from './core/devices.js';
export { DTYPES, type DType, dtypeBytes, isDType, type TypedArray } from './core/dtype.js';
export { ERRORS, type ErrorCode, ShardloopError } from './core/errors.js';
export * as memory from './core/memory.js';
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
} from './core/modes.js';
export type { Int, Layout, MemoryFormat, Scalar } from './core/op-support.js';
export * as ops from './core/ops.js';
export { getRandomState, manualSeed, setRandomState } from './core/random.js';
export { disposeAll, keep, scope } from './core/scope.js';
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
  rand,
  randint,
  randn,
  Slice,
  slice,
  Tensor,
  type TensorData,
  tensor,
  zeros,
} from './core/tensor.js';
