// What lib/dist offers to the floors above. launch.ts is imported by itself where the addon must not be loaded.
export type { Backend, ReduceOp } from './checks.js';
export { type LaunchEnvironment, type LaunchSource, readEnvironment } from './environment.js';
export { recordFailure } from './failure-report.js';
export { createGroup, Group, type GroupOptions, type InitOptions, init, type StoreAddress } from './group.js';
export { type LaunchOptions, type LaunchResult, launch } from './launch.js';
export type { OutputMode, RankEnd } from './rank-process.js';
export { Work } from './work.js';
