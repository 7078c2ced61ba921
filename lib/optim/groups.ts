// Parameter groups: which tensors an optimizer updates, under which names, and with which settings each group differs.
import { describe, isTensor, ShardloopError, type Tensor } from '../core/index.js';
import { refuseSharded } from '../core/sharded.js';
import type { Place } from './place.js';

/** Parameters with or without their names, as `model.parameters()` or `model.namedParameters()` gives them. */
export type Params = Iterable<Tensor> | Iterable<readonly [string, Tensor]>;

/** A group as a caller writes it: its parameters and the settings in which it differs from the optimizer's own. */
export type GroupOptions<H> = { params: Params } & Partial<H>;

/**
 * What every optimizer is made with: `params` for one group or `groups` for several, settings for all of them, and where the
 * states live (default: on the parameter's device).
 */
export type OptimizerOptions<H> = Partial<H> & { place?: Place } & (
    | { params: Params; groups?: undefined }
    | { groups: readonly GroupOptions<H>[]; params?: undefined }
  );

/** A group as an optimizer holds it. `lr` and the other settings may be changed between steps. */
export type Group<H> = H & {
  readonly params: readonly Tensor[];
  /** The parameters' names; their running numbers when none were given. */
  readonly names: readonly string[];
  /** The learning rate that a schedule multiplies; `lr` at the start. */
  baseLr: number;
};

/** Makes the groups from what the caller wrote. Throws BAD_ARGUMENT for unknown settings and parameters given twice. */
export function makeGroups<H extends { lr: number }>(
  where: string,
  options: OptimizerOptions<H>,
  defaults: H,
  check: (settings: H) => void,
): Group<H>[] {
  if (typeof options !== 'object' || options === null) {
    throw new ShardloopError(
      'BAD_ARGUMENT',
      `${where}: expected an object such as { params: model.parameters(), lr: 1e-3 }, received ${describe(options)}`,
    );
  }
  const { params, groups, place, ...shared } = options as {
    params?: Params;
    groups?: readonly GroupOptions<H>[];
    place?: unknown;
  };
  if (place !== undefined && typeof place !== 'function')
    throw new ShardloopError('BAD_ARGUMENT', `${where}: expected place to be a function, received ${describe(place)}`);
  if ((params === undefined) === (groups === undefined)) {
    throw new ShardloopError(
      'BAD_ARGUMENT',
      `${where}: expected either params or groups, received ${params ? 'both' : 'neither'}`,
    );
  }
  const base = settings(where, shared, defaults);
  const named = new NameTable(where);
  return (groups ?? [{ params: params! } as GroupOptions<H>]).map((group) => {
    const { params: members, ...own } = group;
    const merged = settings(where, own, base);
    check(merged);
    return { ...merged, ...named.add(members), baseLr: merged.lr };
  });
}

function settings<H extends object>(where: string, given: object, defaults: H): H {
  for (const key of Object.keys(given)) {
    if (Object.hasOwn(defaults, key)) continue;
    throw new ShardloopError(
      'BAD_ARGUMENT',
      `${where}: no setting is called ${describe(key)}; it has ${Object.keys(defaults).join(', ')}`,
    );
  }
  const present = Object.entries(given).filter(([, value]) => value !== undefined);
  return { ...defaults, ...Object.fromEntries(present) };
}

/** Collects the parameters of all groups and sees to it that none comes twice and that all or none have names. */
class NameTable {
  readonly #where: string;
  readonly #tensors = new Map<Tensor, string>();
  readonly #names = new Set<string>();
  #given: boolean | undefined;

  constructor(where: string) {
    this.#where = where;
  }

  add(params: Params): { params: Tensor[]; names: string[] } {
    const group: { params: Tensor[]; names: string[] } = { params: [], names: [] };
    for (const item of params) {
      const [name, t] = Array.isArray(item) ? (item as [string, Tensor]) : [undefined, item as Tensor];
      this.#check(name, t);
      const label = name ?? String(this.#tensors.size);
      this.#tensors.set(t, label);
      this.#names.add(label);
      group.params.push(t);
      group.names.push(label);
    }
    if (group.params.length === 0) this.#refuse('expected at least one parameter in every group, received none');
    return group;
  }

  #check(name: string | undefined, t: Tensor): void {
    if (!isTensor(t) || (name !== undefined && typeof name !== 'string')) {
      this.#refuse(`expected tensors or [name, tensor] pairs as params, received ${describe(isTensor(t) ? name : t)}`);
    }
    refuseSharded(this.#where, t);
    if (!t.isLeaf) this.#refuse('expected leaf tensors as params, received the result of an operation with gradient');
    this.#given ??= name !== undefined;
    if (this.#given !== (name !== undefined))
      this.#refuse('expected names for all params or for none, received a mixture');
    const earlier = this.#tensors.get(t);
    if (earlier !== undefined) this.#refuse(`expected each parameter once, received "${earlier}" twice`);
    if (name !== undefined && this.#names.has(name)) this.#refuse(`expected each name once, received "${name}" twice`);
  }

  #refuse(message: string): never {
    throw new ShardloopError('BAD_ARGUMENT', `${this.#where}: ${message}`);
  }
}

/**
 * The usual two groups: weight decay for the parameters that `decays` accepts (default: those with two or more
 * dimensions), none for the others (biases and norms). A group without parameters is left out.
 */
export function decayGroups(
  named: Iterable<readonly [string, Tensor]>,
  options: { weightDecay: number; decays?: (name: string, t: Tensor) => boolean },
): { params: [string, Tensor][]; weightDecay: number }[] {
  const { weightDecay, decays = (_, t) => t.ndim >= 2 } = options;
  const groups: { params: [string, Tensor][]; weightDecay: number }[] = [
    { params: [], weightDecay },
    { params: [], weightDecay: 0 },
  ];
  for (const [name, t] of named) groups[decays(name, t) ? 0 : 1]!.params.push([name, t]);
  return groups.filter(({ params }) => params.length > 0);
}
