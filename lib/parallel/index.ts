// The names of lib/parallel.
export type { Compression } from './compress.js';
export type { Offload } from './offload.js';
export { type ReplicateOptions, replicate } from './replicate.js';
export { type Checkpointing, forwardSegments, runSegments, type SegmentLoopOptions, skipSegments } from './segments.js';
export { alone, type Part, type Pass, partsOf, type Strategy } from './strategy.js';
export { type ZeroOptions, zero } from './zero.js';
