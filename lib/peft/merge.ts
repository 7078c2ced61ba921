// An adapter's detours folded into the weights, taken out again, or removed. What one layer does is in lora.ts.
import { ShardloopError } from '../core/index.js';
import type { Module } from '../nn/index.js';
import { loraLayers, loraSettings, rememberSettings } from './lora.js';

/**
 * Adds every detour to the weight beside it, so that the model computes the same without it, and can be saved as a
 * plain model. The old bits are kept (a copy of each adapted weight) for {@link unmergeLora}. Merging twice changes
 * nothing. Throws BAD_ARGUMENT without an adapter, or when an adapted weight is tied to another layer, which merging
 * would change too.
 */
export function mergeLora(model: Module): void {
  loraSettings(model);
  const layers = loraLayers(model);
  const state = [...model.stateDict()];
  for (const [name, layer] of layers) {
    const others = state.filter(([key, t]) => t === layer.weight && key !== `${name}.weight`).map(([key]) => key);
    if (others.length === 0) continue;
    throw new ShardloopError(
      'BAD_ARGUMENT',
      `mergeLora: ${name}.weight is tied to ${others.join(', ')}, which merging would change; untie it, or keep the adapter`,
    );
  }
  for (const [, layer] of layers) layer.merge();
}

/** Takes the detours out of the weights again, to the bit. Throws BAD_ARGUMENT without an adapter. */
export function unmergeLora(model: Module): void {
  loraSettings(model);
  for (const [, layer] of loraLayers(model)) layer.unmerge();
}

/**
 * Puts the plain layers back and frees the adapter: of a merged model the merged weights stay, of an unmerged one the
 * base weights. Everything stays frozen; `model.requiresGrad()` unfreezes. Throws BAD_ARGUMENT without an adapter.
 */
export function removeLora(model: Module): void {
  loraSettings(model);
  for (const [name, layer] of loraLayers(model)) model.setSubmodule(name, layer.release());
  rememberSettings(model, null);
}
