// LoRA (Hu et al. 2021): beside a frozen layer W x, a trained detour of low rank, scaling * B A dropout(x). The layer
// takes the base layer's place and keeps its tensors under their names, so that state dicts and segments stay as they are.
// Not here: which layers (target-modules.ts), files (adapter-folder.ts).
import {
  call,
  type DType,
  describe,
  isAutocastEnabled,
  isGradEnabled,
  keep,
  noGrad,
  ops,
  ShardloopError,
  scope,
  type Tensor,
} from '../core/index.js';
import { checkOptions, requireOptions } from '../core/options.js';
import {
  type AdapterLayer,
  affine,
  Conv1D,
  Dropout,
  type GeluFirst,
  gelu,
  hasFusedOps,
  init,
  Linear,
  Module,
  type Parameter,
} from '../nn/index.js';
import { type BaseLayer, findTargets, isBaseLayer, type TargetModules } from './target-modules.js';

/** How an adapter is made. */
export interface LoraOptions {
  /** Rank of the detour: rows of A and columns of B. Default 8. */
  readonly rank?: number;
  /** The detour counts alpha / rank times (with rsLora alpha / sqrt(rank)). Default 16. */
  readonly alpha?: number;
  /** Dropout of the detour's input while training. Default 0. */
  readonly dropout?: number;
  /** Which layers; see {@link TargetModules}. Default 'all-linear'. */
  readonly targetModules?: TargetModules;
  /** Rank-stabilised scaling (Kalajdzievski 2023). Default false. */
  readonly rsLora?: boolean;
  /** dtype of A and B. Default: that of the layer that they stand beside. */
  readonly dtype?: DType;
  /** Where A and B are made. Default: beside the layer's weight. */
  readonly device?: string;
}

/** The settings that one adapter was made with; kept for its folder. */
export interface LoraSettings extends Required<Omit<LoraOptions, 'dtype' | 'device'>> {}

const settingsOf = new WeakMap<Module, LoraSettings>();

/** How a {@link LoraLinear} computes. */
export interface LoraForwardOptions {
  /**
   * In training, base and detour by one kernel that adds the detour in place (default true). False composes them, which is
   * the reference.
   */
  readonly fused?: boolean;
}

/** A Linear or Conv1D with a LoRA detour: (..., in) -> (..., out). A starts as in PEFT, B at zero. */
export class LoraLinear extends Module implements AdapterLayer, GeluFirst {
  readonly adapterTensors: readonly string[] = ['lora_A.weight', 'lora_B.weight'];
  /** The base layer's own: (out, in), or of a Conv1D (in, out). */
  weight: Parameter;
  bias: Parameter | null; // (out)
  lora_dropout: Dropout;
  lora_A: Linear; // weight (rank, in)
  lora_B: Linear; // weight (out, rank)
  readonly rank: number;
  readonly alpha: number;
  /** What the detour is multiplied by. */
  readonly scaling: number;
  /** Whether the base layer is a Conv1D, whose weight is stored transposed. */
  readonly transposed: boolean;
  readonly #base: BaseLayer;
  #unmerged: Tensor | null = null;

  /** Throws BAD_ARGUMENT for a base that is no Linear or Conv1D, and for options out of range. */
  constructor(
    base: BaseLayer,
    options: Required<Pick<LoraOptions, 'rank' | 'alpha' | 'dropout' | 'rsLora'>> & { dtype?: DType; device?: string },
  ) {
    super();
    if (!isBaseLayer(base)) throw noBase(base);
    requireOptions('LoraLinear', options, OPTIONS);
    checkSettings('LoraLinear', options);
    const { rank, alpha, dropout } = options;
    this.#base = base;
    this.weight = base.weight;
    this.bias = base.bias;
    this.transposed = base instanceof Conv1D;
    this.rank = rank;
    this.alpha = alpha;
    this.scaling = scalingOf(options);
    const { device = base.weight.device } = options;
    const dtype = options.dtype ?? base.weight.dtype;
    this.lora_dropout = new Dropout(dropout);
    this.lora_A = new Linear({ in: base.in, out: rank, bias: false, dtype, device });
    this.lora_B = new Linear({ in: rank, out: base.out, bias: false, dtype, device });
    init.zeros(this.lora_B.weight);
    this.train(base.training);
  }

  /** Whether `weight` contains the detour now. */
  get merged(): boolean {
    return this.#unmerged !== null;
  }

  forward(x: Tensor, { fused = true }: LoraForwardOptions = {}): Tensor {
    if (fused && this.#fits(x)) return this.#inOne(x, false);
    const base = affine(x, this.weight, this.bias, { across: this.transposed, fused }); // (..., out)
    if (this.merged) return base;
    const { dtype } = this.lora_A.weight;
    const device = x.device.startsWith('cuda') ? 'cuda' : 'cpu';
    const own = x.dtype === dtype || isAutocastEnabled(device) ? x : ops._to_copy(x, { dtype });
    const low = this.lora_A.forward(this.lora_dropout.forward(own)); // (..., rank)
    const sum = ops.add(base, this.lora_B.forward(ops.mul(low, this.scaling))); // (..., out)
    return sum.dtype === base.dtype ? sum : ops._to_copy(sum, { dtype: base.dtype });
  }

  /** {@link forward} of `gelu(x)`, by the tanh approximation. In training `gelu(x)` is not kept. */
  forwardGelu(x: Tensor, options: LoraForwardOptions = {}): Tensor {
    const { fused = true } = options;
    const isOwn = this.forward === LoraLinear.prototype.forward; // else somebody's forward wants to see gelu(x)
    if (fused && isOwn && this.#fits(x)) return this.#inOne(x, true);
    return this.forward(gelu(x, { approximate: 'tanh', fused }), options);
  }

  /** Whether the kernel computes this: in training, with the base frozen, all of one dtype and nothing dropped. */
  #fits(x: Tensor): boolean {
    const { weight, bias, lora_A, lora_B, lora_dropout } = this;
    const isFrozen = !weight.requiresGrad && !bias?.requiresGrad;
    const isOne = [weight, bias ?? weight, lora_A.weight, lora_B.weight].every(({ dtype }) => dtype === x.dtype);
    const drops = lora_dropout.training && lora_dropout.p > 0;
    return isGradEnabled() && !this.merged && isFrozen && isOne && !drops && hasFusedOps(x);
  }

  #inOne(x: Tensor, isGelu: boolean): Tensor {
    const { weight, bias, lora_A, lora_B, scaling } = this;
    return scope(() => {
      const rows = this.transposed ? ops.t(weight) : weight; // (out, in)
      return call('shardloop::lora_linear', x, rows, bias, lora_A.weight, lora_B.weight, scaling, isGelu) as Tensor;
    });
  }

  /** Adds the detour to `weight` in place, and keeps the bits that it had. */
  merge(): void {
    if (this.merged) return;
    noGrad(() =>
      scope(() => {
        const [a, b] = [toFloat(this.lora_A.weight), toFloat(this.lora_B.weight)];
        const delta = ops.mul(ops.matmul(b, a), this.scaling); // (out, in)
        this.#unmerged = keep(ops.clone(this.weight));
        ops.copy_(this.weight, ops.add(toFloat(this.weight), this.transposed ? ops.t(delta) : delta));
      }),
    );
  }

  /** Gives `weight` back exactly the bits that it had before {@link merge}. */
  unmerge(): void {
    const before = this.#unmerged;
    if (before === null) return;
    noGrad(() => scope(() => ops.copy_(this.weight, before)));
    before.dispose();
    this.#unmerged = null;
  }

  /** The base layer with the weights as they are now (merged or not); this layer's own tensors are freed. */
  release(): BaseLayer {
    this.#unmerged?.dispose();
    this.#unmerged = null;
    this.lora_A.dispose();
    this.lora_B.dispose();
    this.#base.weight = this.weight;
    this.#base.bias = this.bias;
    return this.#base.train(this.training);
  }

  override dispose(): void {
    this.#unmerged?.dispose();
    this.#unmerged = null;
    super.dispose();
  }

  override extraRepr(): string {
    return `rank=${this.rank}, alpha=${this.alpha}, merged=${this.merged}`;
  }
}

function scalingOf({ rank, alpha, rsLora }: Pick<LoraSettings, 'rank' | 'alpha' | 'rsLora'>): number {
  return alpha / (rsLora ? Math.sqrt(rank) : rank);
}

/** Whether a value is a number above 0 that is one in float32 too, in which it is multiplied. */
export function isFactor(value: unknown): boolean {
  if (typeof value !== 'number') return false;
  const rounded = Math.fround(value);
  return rounded > 0 && rounded < Infinity;
}

function toFloat(t: Tensor): Tensor {
  return t.dtype === 'float64' ? t : ops._to_copy(t, { dtype: 'float32' });
}

/**
 * Puts a LoRA adapter beside the target layers of `model` and freezes everything else: only A and B train. Before
 * training the model computes what it did. Returns the settings, defaults filled in.
 * Throws BAD_ARGUMENT for an option out of range, targets that match nothing, or a model that has an adapter already.
 */
export function addLora(model: Module, options: LoraOptions = {}): LoraSettings {
  checkOptions('addLora', options, OPTIONS);
  const { rank = 8, alpha = 16, dropout = 0, targetModules = 'all-linear', rsLora = false, dtype, device } = options;
  checkSettings('addLora', { rank, alpha, dropout, rsLora });
  refuseSecond(model);
  const settings = { rank, alpha, dropout, targetModules, rsLora };
  const targets = findTargets(model, targetModules);
  for (const [name, base] of targets) {
    const most = Math.min(base.in, base.out);
    if (rank <= most) continue;
    throw new ShardloopError(
      'BAD_ARGUMENT',
      `addLora: rank: expected at most ${most}, the smaller side of ${name} (${base.in} in, ${base.out} out), received ${rank}; a higher one adds nothing`,
    );
  }
  model.requiresGrad(false);
  for (const [name, base] of targets) model.setSubmodule(name, new LoraLinear(base, { ...settings, dtype, device }));
  settingsOf.set(model, settings);
  return settings;
}

/** Remembers the settings of an adapter that was put in layer by layer; null when it was removed. */
export function rememberSettings(model: Module, settings: LoraSettings | null): void {
  if (settings === null) settingsOf.delete(model);
  else settingsOf.set(model, settings);
}

/** The settings of the model's adapter. Throws BAD_ARGUMENT when it has none. */
export function loraSettings(model: Module): LoraSettings {
  const settings = settingsOf.get(model);
  if (settings !== undefined) return settings;
  throw new ShardloopError('BAD_ARGUMENT', `${model.constructor.name} has no LoRA adapter; call addLora(model) first`);
}

/** The LoRA layers of a model by their dotted names. */
export function loraLayers(model: Module): [string, LoraLinear][] {
  return model.namedModules().filter((entry): entry is [string, LoraLinear] => entry[1] instanceof LoraLinear);
}

/** BAD_ARGUMENT when the model has an adapter. */
export function refuseSecond(model: Module): void {
  const present = loraLayers(model)[0]?.[0];
  if (present === undefined) return;
  throw new ShardloopError(
    'BAD_ARGUMENT',
    `the model has a LoRA adapter already (${present}); call removeLora(model) first`,
  );
}

function noBase(base: unknown): ShardloopError {
  const adapted = base instanceof LoraLinear ? ', which has an adapter already' : '';
  const expected = `expected an nn.Linear or nn.Conv1D, received ${describe(base)}${adapted}`;
  return new ShardloopError(
    'BAD_ARGUMENT',
    `LoraLinear: the base layer: ${expected}; addLora(model) finds the layers of a model`,
  );
}

const OPTIONS = ['rank', 'alpha', 'dropout', 'targetModules', 'rsLora', 'dtype', 'device'];

/** Throws BAD_ARGUMENT, which `who` begins, for settings that no layer can have. */
function checkSettings(
  who: string,
  { rank, alpha, dropout, rsLora }: Pick<LoraSettings, 'rank' | 'alpha' | 'dropout' | 'rsLora'>,
): void {
  const refuse = (name: string, expected: string, value: unknown) => {
    throw new ShardloopError('BAD_ARGUMENT', `${who}: ${name}: expected ${expected}, received ${describe(value)}`);
  };
  if (!Number.isSafeInteger(rank) || rank < 1) refuse('rank', 'a positive integer', rank);
  if (!(typeof alpha === 'number' && alpha > 0 && alpha < Infinity)) refuse('alpha', 'a positive number', alpha);
  const scaling = scalingOf({ rank, alpha, rsLora });
  if (!isFactor(scaling)) refuse('alpha', `one whose scale alpha / rank float32 can hold, not ${scaling}`, alpha);
  if (!(typeof dropout === 'number' && dropout >= 0 && dropout < 1)) refuse('dropout', 'a number in [0, 1)', dropout);
  if (typeof rsLora !== 'boolean') refuse('rsLora', 'true or false', rsLora);
}
