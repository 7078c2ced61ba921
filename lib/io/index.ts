// The names of lib/io for the folders above.
export { cleanLeftovers, exists, removeFolderAtomic, writeFileAtomic, writeFolderAtomic } from './atomic.js';
export {
  type Checkpoint,
  type CheckpointContent,
  type Json,
  latestCheckpoint,
  listCheckpoints,
  openCheckpoint,
  type SaveCheckpointOptions,
  saveCheckpoint,
} from './checkpoint.js';
export {
  readSafetensors,
  SafetensorsFile,
  type TensorSource,
  type WrittenFile,
  writeSafetensors,
} from './safetensors.js';
export { openSafetensorsFolder, type WriteFolderOptions, writeSafetensorsFolder } from './safetensors-folder.js';
export type { TensorEntry } from './safetensors-header.js';
