// The names of lib/io for the folders above.
export {
  cleanLeftovers,
  exists,
  linkAtomic,
  PendingFolder,
  removeFolderAtomic,
  writeFileAtomic,
  writeFolderAtomic,
} from './atomic.js';
export { type BackgroundOptions, type BackgroundWrite, writePartInBackground } from './background-write.js';
export {
  beginCheckpoint,
  type CheckpointContent,
  commitCheckpoint,
  type Json,
  latestCheckpoint,
  listCheckpoints,
  type PartGroups,
  type PartPlan,
  type PartReceipt,
  planPart,
  RESULT,
  removeOldest,
  type SaveCheckpointOptions,
  saveCheckpoint,
  type TensorPart,
  writePart,
} from './checkpoint.js';
export type { Range, WrittenRange } from './checkpoint-index.js';
export { type Checkpoint, type OpenCheckpointOptions, openCheckpoint, requireCheckpoint } from './checkpoint-read.js';
export {
  type LazyTensor,
  readSafetensors,
  SafetensorsFile,
  type TensorSource,
  type Writable,
  type WrittenFile,
  writeSafetensors,
} from './safetensors.js';
export { openSafetensorsFolder, type WriteFolderOptions, writeSafetensorsFolder } from './safetensors-folder.js';
export type { TensorEntry, TensorSpec } from './safetensors-header.js';
