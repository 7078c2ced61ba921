// The names of lib/peft for the folders above.
export { type AdapterConfig, readAdapterConfig } from './adapter-config.js';
export {
  describeAdapter,
  type LoadAdapterOptions,
  loadAdapter,
  type SaveAdapterOptions,
  saveAdapter,
  writeAdapterTensors,
} from './adapter-folder.js';
export { addLora, LoraLinear, type LoraOptions, type LoraSettings, loraLayers, loraSettings } from './lora.js';
export { mergeLora, removeLora, unmergeLora } from './merge.js';
export { type BaseLayer, findTargets, type TargetModules } from './target-modules.js';
