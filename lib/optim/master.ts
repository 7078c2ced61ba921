// Float32 masters for parameters in half precision: an optimizer around an optimizer. The inner one sees only float32
// tensors. An optimizer of this folder reads the half-precision gradients and rounds its result into the parameters in the
// same pass over memory; around any other one a step casts the gradients up, and the masters down afterwards.
import { describe, isTensor, keep, noGrad, ops, ShardloopError, scope, type Tensor } from '../core/index.js';
import { refuseSharded } from '../core/sharded.js';
import type { Group, Params } from './groups.js';
import { BaseOptimizer, type Optimizer, type OptimizerState, type StepOptions } from './optimizer.js';
import type { Place } from './place.js';

/** A group whose settings go to the inner optimizer as they are. */
export interface MasterGroup {
  params: Params;
  [setting: string]: unknown;
}

/** Options of {@link MasterWeights}. G is the type of the groups, with the settings of the inner optimizer. */
export interface MasterWeightsOptions<G extends { params: Params }> {
  /** The parameters in groups, as the inner optimizer takes them. */
  groups: readonly G[];
  /** Makes the inner optimizer for the same groups with masters in the place of half-precision parameters. */
  optimizer: (groups: G[]) => Optimizer;
  /** Where the masters live; default: on the parameter's device. The inner optimizer's states have a place of their own. */
  place?: Place;
}

interface Pair {
  readonly name: string;
  readonly param: Tensor; // bfloat16 or float16
  readonly master: Tensor; // float32
}

/**
 * An {@link Optimizer} that keeps a float32 master of every bfloat16 or float16 parameter; parameters of other dtypes go to
 * the inner optimizer themselves. The state dict holds the masters, so that a resumed run continues from them. After
 * loading other weights into the model, call `refresh()`.
 */
export class MasterWeights<G extends { params: Params } = MasterGroup> implements Optimizer {
  readonly inner: Optimizer;
  readonly #pairs: Pair[] = [];

  constructor(options: MasterWeightsOptions<G>) {
    let index = 0;
    const groups = options.groups.map((group) => {
      const params = [...(group.params as Iterable<Tensor | readonly [string, Tensor]>)].map((item) => {
        const [name, param] = Array.isArray(item) ? (item as [string, Tensor]) : [String(index), item as Tensor];
        index++;
        const master = this.#masterOf(name, param, options.place);
        return Array.isArray(item) ? ([name, master] as const) : master;
      });
      return { ...group, params: params as unknown as Params };
    });
    this.inner = options.optimizer(groups);
    if (this.inner instanceof BaseOptimizer) {
      this.inner.masterFor(new Map(this.#pairs.map(({ param, master }) => [master, param])));
    }
  }

  #masterOf(name: string, param: Tensor, place: Place = (_, t) => t): Tensor {
    if (!isTensor(param)) {
      throw new ShardloopError(
        'BAD_ARGUMENT',
        `MasterWeights: expected tensors as params, received ${describe(param)}`,
      );
    }
    refuseSharded('MasterWeights', param);
    if (param.dtype !== 'bfloat16' && param.dtype !== 'float16') return param;
    const make = () => keep(place(`${name}.master`, ops._to_copy(param, { dtype: 'float32' })));
    const master = noGrad(() => scope(make));
    this.#pairs.push({ name, param, master });
    return master;
  }

  get groups(): readonly Group<{ lr: number }>[] {
    return this.inner.groups;
  }

  prepare(): void {
    this.inner.prepare();
  }

  step(options: StepOptions = {}): void {
    if (this.inner instanceof BaseOptimizer) this.inner.step(options);
    else this.#stepByCasts(options);
  }

  #stepByCasts(options: StepOptions): void {
    noGrad(() =>
      scope(() => {
        const stepped = this.#pairs.filter(({ param, master }) => {
          const grad = param.grad;
          master.grad = grad === null ? null : ops._to_copy(grad, { dtype: 'float32' });
          return grad !== null;
        });
        this.inner.step(options);
        for (const { master } of stepped) master.grad = null;
        publish(stepped);
      }),
    );
  }

  zeroGrad(): void {
    this.inner.zeroGrad();
    for (const { param } of this.#pairs) param.grad = null;
  }

  /** Sets the masters to the parameters' values. */
  refresh(): void {
    noGrad(() => {
      for (const { param, master } of this.#pairs) ops.copy_(master, param);
    });
  }

  stateDict(): OptimizerState {
    const { tensors, values } = this.inner.stateDict();
    const all = new Map(tensors);
    for (const { name, master } of this.#pairs) all.set(`${name}.master`, master);
    return { tensors: all, values };
  }

  loadStateDict(state: OptimizerState): void {
    const tensors = new Map(state.tensors);
    for (const { name, master } of this.#pairs) {
      const key = `${name}.master`;
      const saved = tensors.get(key);
      if (!isTensor(saved) || saved.shape.join() !== master.shape.join()) {
        const received = isTensor(saved) ? `[${saved.shape.join(', ')}]` : describe(saved);
        throw new ShardloopError(
          'BAD_ARGUMENT',
          `MasterWeights.loadStateDict: expected "${key}" of shape [${master.shape.join(', ')}], received ${received}`,
        );
      }
      tensors.delete(key);
    }
    this.inner.loadStateDict({ tensors, values: state.values });
    noGrad(() => {
      for (const { name, master } of this.#pairs) ops.copy_(master, state.tensors.get(`${name}.master`)!);
      publish(this.#pairs);
    });
  }

  /** Frees the masters and the inner optimizer's state. */
  dispose(): void {
    this.inner.dispose();
    for (const { master } of this.#pairs.splice(0)) master.dispose();
  }
}

function publish(pairs: readonly Pair[]): void {
  if (pairs.length === 0) return;
  ops._foreach_copy_(
    pairs.map(({ param }) => param),
    pairs.map(({ master }) => master),
  );
}
