// What lib/dist offers to the floors above. launch.ts is imported by itself where the addon must not be loaded.
export type { Backend, ReduceOp } from './checks.js';
export type { AllToAllRows } from './collectives.js';
export {
  type CommunicationEntry,
  type CommunicationLog,
  communicationLog,
  formatCommunication,
  type Straggler,
} from './communication-log.js';
export {
  createGroup,
  type GroupOptions,
  type InitOptions,
  init,
  type SubgroupOptions,
  subgroup,
} from './create-group.js';
export { type LaunchEnvironment, type LaunchSource, readEnvironment } from './environment.js';
export { recordFailure } from './failure-report.js';
export { Group } from './group.js';
export { join, type Turn } from './join.js';
export { type LaunchOptions, type LaunchResult, launch } from './launch.js';
export { Mesh, type MeshShape, mesh } from './mesh.js';
export type { OutputMode, RankEnd } from './rank-process.js';
export type { StoreAddress } from './store.js';
export { chromeTrace, type Launched, type RankTimeline, startTimeline, Timeline } from './timeline.js';
export { busFactor, type Collective, type Traffic } from './traffic.js';
export { Work } from './work.js';
