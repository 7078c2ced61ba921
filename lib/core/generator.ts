// A generator of random numbers of one's own, beside the default one of random.ts: a stream that others do not advance.
// It lives outside all scopes, until disposed or unreachable. Not here: drawing from it (ops.ts, create.ts).
import { type Handle, native, raw } from './binding.js';
import { describe, ShardloopError } from './errors.js';
import { handleOf, type Tensor, wrap } from './tensor-class.js';

const net = new FinalizationRegistry<Handle>((handle) => {
  native().disposeQuiet(handle);
});

let readHandle: (generator: Generator) => Handle;
let isGenerator: (value: unknown) => value is Generator;

/** A CPU generator with its own state: `randn([3], { generator })`, `t.normal_({ generator })`. */
export class Generator {
  readonly #handle: Handle;

  static {
    readHandle = (generator) => generator.#handle;
    isGenerator = (value): value is Generator => typeof value === 'object' && value !== null && #handle in value;
  }

  /** Starts from `seed`, a 64-bit integer; the same seed gives the numbers of Python's `torch.Generator`. */
  constructor(seed: number | bigint) {
    this.#handle = raw('shardloop::generator', checkSeed('Generator', seed)) as Handle;
    native().keep(this.#handle, true);
    net.register(this, this.#handle, this);
  }

  /** A copy of its state: uint8 (5056). */
  getState(): Tensor {
    return wrap(raw('shardloop::generator_state', this.#handle));
  }

  /** Puts it into a state that {@link getState} gave. */
  setState(state: Tensor): void {
    raw('shardloop::set_generator_state', this.#handle, handleOf(state));
  }

  /** Frees it now. Throws TENSOR_DISPOSED when that was done before. */
  dispose(): void {
    native().dispose(this.#handle);
    net.unregister(this);
  }

  /** What `using` calls: as dispose(), but quiet when it is already gone. */
  [Symbol.dispose](): void {
    native().disposeQuiet(this.#handle);
    net.unregister(this);
  }
}

/** The handle of a generator; BAD_ARGUMENT for anything else. */
export function generatorHandle(value: unknown): Handle {
  if (isGenerator(value)) return readHandle(value);
  throw new ShardloopError(
    'BAD_ARGUMENT',
    `generator: expected a Generator (new Generator(seed)), received ${describe(value)}`,
  );
}

/** `seed` when it is a 64-bit integer; else BAD_ARGUMENT that begins with `name`. */
export function checkSeed(name: string, seed: unknown): number | bigint {
  const fits = typeof seed === 'bigint' ? seed >= -(2n ** 63n) && seed < 2n ** 63n : Number.isSafeInteger(seed);
  if (fits) return seed as number | bigint;
  throw new ShardloopError('BAD_ARGUMENT', `${name}: expected a seed, a 64-bit integer, received ${describe(seed)}`);
}
