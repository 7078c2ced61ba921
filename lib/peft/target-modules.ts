// Which layers an adapter goes to: by name, regular expression, or all linear layers but the output head; PEFT's rules.
// Not here: what is put there (lora.ts).
import { describe, ShardloopError } from '../core/index.js';
import { Conv1D, Linear, type Module } from '../nn/index.js';

/**
 * Layers by name: `'all-linear'`; names, each the whole dotted name or its end after a dot (`'c_attn'`,
 * `'mlp.c_proj'`; in one string, separated by commas); or a regular expression that must match the whole dotted name.
 */
export type TargetModules = string | readonly string[] | RegExp;

/** A layer that can carry an adapter. */
export type BaseLayer = Linear | Conv1D;

/** A model that says which layer computes its scores, so that `'all-linear'` leaves it out. */
interface WithOutputHead {
  outputHead(): Module;
}

/** The names in `target` when it is a list of names, else null. */
export function targetNames(target: TargetModules): string[] | null {
  if (Array.isArray(target)) return [...(target as readonly string[])];
  if (typeof target !== 'string' || target.toLowerCase() === 'all-linear') return null;
  return /^[\w.]+(,[\w.]+)*$/.test(target) ? target.split(',') : null;
}

/**
 * The layers of `model` that `target` means, by their dotted names, in the model's order.
 * Throws BAD_ARGUMENT when nothing matches, a name in a list matches nothing, or a match is no Linear or Conv1D.
 */
export function findTargets(model: Module, target: TargetModules): [string, BaseLayer][] {
  const modules = model.namedModules().filter(([name]) => name !== '');
  if (typeof target === 'string' && target.toLowerCase() === 'all-linear') return allLinear(model, modules);
  const found = new Map<string, BaseLayer>();
  for (const [what, matches] of matchers(target)) {
    const matched = modules.filter(([name]) => matches(name));
    if (matched.length === 0) throw noMatch(model, what);
    for (const [name, module] of matched) {
      if (!isBaseLayer(module)) {
        throw new ShardloopError(
          'BAD_ARGUMENT',
          `targetModules: ${what} matches ${name}, a ${module.constructor.name}; LoRA goes to Linear and Conv1D only`,
        );
      }
      found.set(name, module);
    }
  }
  return [...found];
}

/** Whether a module is a layer that can carry an adapter. */
export function isBaseLayer(module: Module): module is BaseLayer {
  return module instanceof Linear || module instanceof Conv1D;
}

function allLinear(model: Module, modules: [string, Module][]): [string, BaseLayer][] {
  const head = (model as unknown as Partial<WithOutputHead>).outputHead?.() ?? null;
  const found = modules.filter((entry): entry is [string, BaseLayer] => isBaseLayer(entry[1]) && entry[1] !== head);
  if (found.length === 0) throw noMatch(model, "'all-linear'");
  return found;
}

function matchers(target: TargetModules): [string, (name: string) => boolean][] {
  const names = targetNames(target);
  if (names !== null) {
    const bad = names.find((name) => typeof name !== 'string' || name === '');
    if (names.length === 0 || bad !== undefined) {
      throw new ShardloopError(
        'BAD_ARGUMENT',
        `targetModules: expected names of layers, received ${describe(bad ?? names)}`,
      );
    }
    return names.map((wanted) => [`"${wanted}"`, (name) => name === wanted || name.endsWith(`.${wanted}`)]);
  }
  if (typeof target !== 'string' && !(target instanceof RegExp)) {
    throw new ShardloopError(
      'BAD_ARGUMENT',
      `targetModules: expected 'all-linear', names, or a regular expression; received ${describe(target)}`,
    );
  }
  const pattern = wholeMatch(
    typeof target === 'string' ? target : target.source,
    target instanceof RegExp ? target.flags : '',
  );
  return [[`/${pattern.source}/`, (name) => pattern.test(name)]];
}

/** A regular expression that must match the whole text; Python's named groups are understood. */
export function wholeMatch(source: string, flags = ''): RegExp {
  try {
    return new RegExp(`^(?:${source.replaceAll('(?P<', '(?<')})$`, flags.replace(/[gy]/g, ''));
  } catch (cause) {
    throw new ShardloopError(
      'BAD_ARGUMENT',
      `targetModules: ${JSON.stringify(source)} is no regular expression that JavaScript knows (${(cause as Error).message})`,
      { cause },
    );
  }
}

function noMatch(model: Module, what: string): ShardloopError {
  const layers = model.namedModules().filter(([, module]) => isBaseLayer(module));
  const kinds = [
    ...new Set(
      layers.map(([name]) =>
        name
          .split('.')
          .filter((part) => !/^\d+$/.test(part))
          .slice(-2)
          .join('.'),
      ),
    ),
  ];
  const hint =
    kinds.length === 0 ? 'the model has no such layers' : `it has layers such as ${kinds.slice(0, 8).join(', ')}`;
  return new ShardloopError(
    'BAD_ARGUMENT',
    `targetModules: ${what} matches no layer of ${model.constructor.name}; ${hint}`,
  );
}
