// The two ways in which an update rule runs. One pass: the native ops of shardloop (native/optimizer_ops.cc), which read
// and write each tensor once. Composed: the same arithmetic in the same order by ops of libtorch, the reference that the
// tests hold the native ops against, bit for bit in float32 and float64.
import { ops, scope, type Tensor } from '../core/index.js';
import type { Update } from './optimizer.js';

/** Splits updates into lists that one native call takes: of one dtype and device, and, if `byStep`, of one step. */
export function alike(updates: readonly Update[], byStep = false): Update[][] {
  const kinds = new Map<string, Update[]>();
  for (const update of updates) {
    const { param, grad, half, state } = update;
    const kind = `${param.dtype} ${grad.dtype} ${half?.dtype} ${param.device} ${byStep ? state.step : ''}`;
    const list = kinds.get(kind);
    if (list === undefined) kinds.set(kind, [update]);
    else list.push(update);
  }
  return [...kinds.values()];
}

/** What the native ops call masters, parameters and gradients. */
export function listsOf(updates: readonly Update[]): [masters: Tensor[], parameters: Tensor[], gradients: Tensor[]] {
  return [
    updates.map(({ param }) => param),
    updates[0]!.half === null ? [] : updates.map(({ half }) => half!),
    updates.map(({ grad }) => grad),
  ];
}

/** The state tensors of one name. */
export function statesOf(updates: readonly Update[], name: string): Tensor[] {
  return updates.map(({ state }) => state.tensors[name]!);
}

/** An update rule by ops: changes `param` and the state tensors in place; `grad` is scaled and may be overwritten. */
export type ComposedRule = (param: Tensor, grad: Tensor, state: Readonly<Record<string, Tensor>>) => void;

/** Runs a rule in float32 where tensors are in half precision, and rounds what it leaves once. */
export function composed({ param, grad, half, state }: Update, gradScale: number, rule: ComposedRule): void {
  scope(() => {
    const dtype = param.dtype === 'float64' ? 'float64' : 'float32';
    const opened = (t: Tensor): Tensor => (t.dtype === dtype ? t : ops._to_copy(t, { dtype }));
    const wide = opened(param);
    const states = Object.fromEntries(Object.entries(state.tensors).map(([name, t]) => [name, opened(t)]));
    rule(wide, ops.mul(opened(grad), gradScale), states);
    if (wide !== param) {
      ops.copy_(param, wide);
      for (const [name, t] of Object.entries(states)) ops.copy_(state.tensors[name]!, t);
    }
    if (half !== null) ops.copy_(half, param);
  });
}
