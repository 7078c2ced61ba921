// Every parameter of a GPT-2 by its published name, with shape and segment: what a file must hold, and what a plan of
// memory counts, without building the model. Not here: the computation (model.ts), other spellings of names (hf.ts).
import type { GPT2Config } from './config.js';

/** One parameter. */
export interface PlannedParameter {
  /** The published name: 'transformer.h.0.attn.c_attn.weight'. */
  readonly name: string;
  readonly shape: readonly number[];
  /** The segment that reads it first, as `segments()` of the model names it. */
  readonly segment: string;
}

/** The parameters in the order of the model's state dict, each tensor once (a tied head has none of its own). */
export function gpt2Plan(config: GPT2Config): PlannedParameter[] {
  const { vocab_size: V, n_positions: P, n_embd: C, n_layer: layers, tie_word_embeddings: tied } = config;
  const inner = config.n_inner ?? 4 * C;
  const plan: PlannedParameter[] = [];
  const add = (segment: string, name: string, ...shape: number[]) => plan.push({ name, shape, segment });
  add('embedding', 'transformer.wte.weight', V, C);
  add('embedding', 'transformer.wpe.weight', P, C);
  for (let i = 0; i < layers; i++) {
    const both = (name: string, ...shape: number[]) => {
      add(`h.${i}`, `transformer.h.${i}.${name}.weight`, ...shape);
      add(`h.${i}`, `transformer.h.${i}.${name}.bias`, shape.at(-1)!);
    };
    both('ln_1', C);
    both('attn.c_attn', C, 3 * C); // Conv1D: (in, out)
    both('attn.c_proj', C, C);
    both('ln_2', C);
    both('mlp.c_fc', C, inner);
    both('mlp.c_proj', inner, C);
  }
  add('head', 'transformer.ln_f.weight', C);
  add('head', 'transformer.ln_f.bias', C);
  if (!tied) add('head', 'lm_head.weight', V, C);
  return plan;
}

/** The number of parameters that a configuration has, a tied head counted once. */
export function gpt2ParameterCount(config: GPT2Config): number {
  return gpt2Plan(config).reduce((sum, { shape }) => sum + shape.reduce((product, extent) => product * extent, 1), 0);
}
