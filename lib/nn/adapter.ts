// What a layer says of itself that stands in another's place and adds something trained to it (LoRA and its kin), so
// that a model can be saved without knowing how it was adapted. The layers themselves are lib/peft's.
import type { Module } from './module.js';

/** A layer that replaces a base layer: its base tensors keep their names, its own are `adapterTensors`. */
export interface AdapterLayer extends Module {
  /** Names, inside the layer, of the tensors that belong to the adapter and not to the base model. */
  readonly adapterTensors: readonly string[];
  /** Whether the base tensors contain what the adapter adds. */
  readonly merged: boolean;
}

/** Whether a module is an {@link AdapterLayer}. */
export function isAdapterLayer(module: Module): module is AdapterLayer {
  return Array.isArray((module as { adapterTensors?: unknown }).adapterTensors);
}
