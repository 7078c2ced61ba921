// Autograd functions written in TypeScript: native/autograd_function joins a TypeScript backward to libtorch's graph.
// What forward saves belongs to the graph's node: freed after the backward through it (unless the graph is retained),
// or with the node. Not here: running backward (backward.ts).
import { type Handle, native, raw } from './binding.js';
import { graphIsRetained } from './engine.js';
import { describe, ShardloopError } from './errors.js';
import { noGrad } from './modes.js';
import { disposeAll, keep, scope } from './scope.js';
import { handleOf, isTensor, type Tensor, wrap, wrapOptional } from './tensor-class.js';

/** What a custom function's forward leaves for its backward. */
export interface FunctionContext {
  /** Keeps tensors for backward; they are freed with the graph. Read them as `saved` in backward. */
  save(...tensors: Tensor[]): void;
  /** The tensors that were saved, in order. Throws OP_FAILED when one was changed in place since. */
  readonly saved: readonly Tensor[];
  /** Which inputs need a gradient, in order. */
  readonly needsGrad: readonly boolean[];
  /** Anything else that backward needs. */
  [key: string]: unknown;
}

/** An autograd function in TypeScript: how to compute, and how gradients go back. */
export interface FunctionDefinition {
  /** Computes the outputs without recording. */
  forward(ctx: FunctionContext, ...inputs: Tensor[]): Tensor | readonly Tensor[];
  /**
   * The gradient for each input from the gradient of each output (null where an output took no part); null where an
   * input needs none. It runs without recording: gradients of gradients stop here.
   */
  backward(ctx: FunctionContext, ...grads: (Tensor | null)[]): Tensor | null | readonly (Tensor | null)[];
}

/**
 * Makes a function of Tensors whose gradient is written in TypeScript. `backward` is called on this thread while
 * backward() runs; it must be synchronous. An error that it throws comes out of backward().
 */
export function customFunction(
  definition: FunctionDefinition & { forward(ctx: FunctionContext, ...inputs: Tensor[]): Tensor },
): (...inputs: Tensor[]) => Tensor;
export function customFunction(definition: FunctionDefinition): (...inputs: Tensor[]) => Tensor | Tensor[];
export function customFunction(definition: FunctionDefinition): (...inputs: Tensor[]) => Tensor | Tensor[] {
  if (typeof definition?.forward !== 'function' || typeof definition.backward !== 'function') {
    throw new ShardloopError('BAD_ARGUMENT', 'customFunction: expected { forward, backward }, both functions');
  }
  return (...inputs) => apply(definition, inputs);
}

/** The context of one application: what was saved, with the version that each tensor had then. */
class Context implements FunctionContext {
  [key: string]: unknown;
  readonly needsGrad: readonly boolean[];
  #saved: Tensor[] = [];
  #versions: number[] = [];
  #freed = false;

  constructor(needsGrad: readonly boolean[]) {
    this.needsGrad = needsGrad;
  }

  save(...tensors: Tensor[]): void {
    disposeAll(this.#saved);
    // Aliases without history: they hold the data, not the graph that the tensors came from.
    this.#saved = tensors.map((tensor) => keep(wrap(raw('aten::detach', handleOf(tensor)))));
    this.#versions = this.#saved.map(versionOf);
  }

  get saved(): readonly Tensor[] {
    if (this.#freed) {
      throw new ShardloopError(
        'OP_FAILED',
        'customFunction: backward ran through this function a second time, and what it saved is freed; ' +
          'pass retainGraph: true to the first backward',
      );
    }
    const changed = this.#saved.findIndex((tensor, i) => versionOf(tensor) !== this.#versions[i]);
    if (changed < 0) return this.#saved;
    throw new ShardloopError(
      'OP_FAILED',
      `customFunction: saved tensor ${changed} was changed in place after forward; save a clone, or do not change it`,
    );
  }

  free(): void {
    disposeAll(this.#saved);
    this.#freed = this.#saved.length > 0;
    this.#saved = [];
  }
}

function versionOf(tensor: Tensor): number {
  return raw('aten::_version', handleOf(tensor)) as number;
}

function apply(definition: FunctionDefinition, inputs: readonly Tensor[]): Tensor | Tensor[] {
  const context = new Context(inputs.map((input) => input.requiresGrad));
  let single = false;
  const outputs = scope(() => {
    const result = noGrad(() => definition.forward(context, ...inputs));
    single = isTensor(result);
    const list = (single ? [result] : result) as readonly Tensor[];
    if (!Array.isArray(list) || !list.every(isTensor)) {
      throw new ShardloopError(
        'BAD_ARGUMENT',
        `customFunction: expected forward to return a Tensor or an array of Tensors, received ${describe(result)}`,
      );
    }
    const callback = (grads: (Handle | null)[]): (Handle | null)[] =>
      runCallback(definition, context, grads, inputs.length);
    return native().attachBackward(inputs.map(handleOf), list.map(handleOf), callback).map(wrap);
  });
  return single ? outputs[0]! : outputs;
}

/** What the native node calls: gradients of the outputs in, gradients of the inputs out, temporaries freed. */
function runCallback(
  definition: FunctionDefinition,
  context: Context,
  grads: readonly (Handle | null)[],
  count: number,
): (Handle | null)[] {
  const returned = scope(() => noGrad(() => definition.backward(context, ...grads.map(wrapOptional))));
  if (!graphIsRetained) context.free();
  const list = (isTensor(returned) || returned === null ? [returned] : returned) as readonly (Tensor | null)[];
  if (!Array.isArray(list) || list.length !== count || list.some((grad) => grad !== null && !isTensor(grad))) {
    throw new ShardloopError(
      'BAD_ARGUMENT',
      `customFunction: expected backward to return ${count} gradients (a Tensor, or null, for each input), ` +
        `received ${describe(returned)}`,
    );
  }
  return list.map((grad) => (grad === null ? null : handleOf(grad)));
}
