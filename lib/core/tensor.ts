// The door to tensors: the class with its generated methods, and the creation functions. Import Tensor from here.
// Not here: the class itself (tensor-class.ts), which the generated operations build on.
import './ops.js';

export {
  arange,
  type CreateOptions,
  empty,
  eye,
  full,
  ones,
  type RandomOptions,
  rand,
  randint,
  randn,
  type TensorData,
  tensor,
  zeros,
} from './create.js';
export { Slice, slice } from './indexing.js';
export type { Nested } from './print.js';
export { type Complex, type Index, type Item, isTensor, Tensor } from './tensor-class.js';
