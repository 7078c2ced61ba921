// GPT-2, whole: attention, MLP, block, and the language model around them, with the published parameter names.
// Not here: configuration (config.ts), what goes in and masks (inputs.ts), names and shapes without a model (plan.ts), files (hf.ts), generation
// (../generate.ts). The model does not know whether it is distributed.
import { autocast, type DType, describe, empty, ops, ShardloopError, scope, type Tensor } from '../../core/index.js';
import { checkOptions } from '../../core/options.js';
import {
  attention,
  type Carry,
  Conv1D,
  crossEntropy,
  Dropout,
  Embedding,
  init,
  isGeluFirst,
  LayerNorm,
  Linear,
  linearCrossEntropy,
  Module,
  type Segment,
  segment,
  selfAttention,
  type UnaryModule,
} from '../../nn/index.js';
import { activation, isTanhGelu } from '../activations.js';
import { KVCache } from '../kv-cache.js';
import { attentionScale, GPT2_CONFIG_KEYS, type GPT2Config, gpt2Config } from './config.js';
import { causal, type GPT2ForwardOptions, type GPT2InputOptions, gpt2Inputs, maskOf, targetsOf } from './inputs.js';

export type { GPT2ForwardOptions, GPT2InputOptions } from './inputs.js';

/** Where and how a new model's parameters are made. */
export interface GPT2Options {
  /** Default 'float32'. */
  readonly dtype?: DType;
  /** Default 'cpu'; 'meta' gives shapes without memory or initialisation. */
  readonly device?: string;
}

/** Causal self-attention of one block. */
export class GPT2Attention extends Module {
  c_attn: UnaryModule;
  c_proj: UnaryModule;
  resid_dropout: Dropout;
  readonly #heads: number;
  readonly #scale: number;
  readonly #dropout: number;
  readonly #upcast: boolean;
  readonly #layer: number;

  constructor(config: GPT2Config, layer: number) {
    super();
    const { n_embd: C } = config;
    this.c_attn = new Conv1D({ in: C, out: 3 * C, device: 'meta' });
    this.c_proj = new Conv1D({ in: C, out: C, device: 'meta' });
    this.resid_dropout = new Dropout(config.resid_pdrop);
    this.#heads = config.n_head;
    this.#scale = attentionScale(config, layer);
    this.#dropout = config.attn_pdrop;
    this.#upcast = config.reorder_and_upcast_attn;
    this.#layer = layer;
  }

  forward(x: Tensor, mask: Tensor | null, cache: KVCache | null): Tensor {
    const [B, T, C] = x.shape as [number, number, number];
    const heads = ops.view(this.c_attn.forward(x), [B, T, 3, this.#heads, C / this.#heads]); // (B, T, 3, H, D)
    const how = { mask, dropout: this.training ? this.#dropout : 0, scale: this.#scale };
    if (cache !== null && !this.#upcast) return this.#project(cache.attend(this.#layer, heads, how));
    const options = { ...how, causal: mask === null };
    if (mask === null && !this.#upcast) return this.#project(selfAttention(heads, options));
    const [q, k, v] = ops.unbind(ops.permute(heads, [2, 0, 3, 1, 4])) as [Tensor, Tensor, Tensor]; // (B, H, T, D) each
    const [keys, values] = cache === null ? [k, v] : cache.update(this.#layer, k, v); // (B, H, S, D)
    const attend = this.#upcast && q.dtype !== 'float32' ? upcastAttention : attention;
    const y = attend(q, keys, values, options); // (B, H, T, D)
    return this.#project(ops.reshape(ops.transpose(y, 1, 2), [B, T, C]));
  }

  #project(y: Tensor): Tensor {
    return this.resid_dropout.forward(this.c_proj.forward(y)); // (B, T, C)
  }
}

/** Attention whose scores and softmax are computed in fp32, whatever the dtype of q, k and v and of autocast. */
function upcastAttention(
  q: Tensor, // (B, H, T, D)
  k: Tensor, // (B, H, S, D)
  v: Tensor,
  { mask, dropout, scale }: { mask: Tensor | null; dropout: number; scale: number },
): Tensor {
  const device = q.device.startsWith('cuda') ? 'cuda' : 'cpu';
  const weights = autocast({ enabled: false, device }, () => {
    const scores = ops.mul(ops.matmul(toFloat(q), ops.transpose(toFloat(k), 2, 3)), scale); // (B, H, T, S)
    const allowed = mask ?? causal(q.shape[2]!, k.shape[2]!, q.device);
    const masked = ops.masked_fill(scores, ops.logical_not(allowed), Number.NEGATIVE_INFINITY);
    return ops._to_copy(ops.softmax(masked, -1), { dtype: v.dtype });
  });
  return ops.matmul(ops.dropout(weights, dropout, dropout > 0), v); // (B, H, T, D)
}

function toFloat(x: Tensor): Tensor {
  return ops._to_copy(x, { dtype: 'float32' });
}

/** The two layers behind the attention. */
export class GPT2MLP extends Module {
  c_fc: UnaryModule;
  c_proj: UnaryModule;
  dropout: Dropout;
  readonly #activation: (x: Tensor) => Tensor;
  readonly #isTanhGelu: boolean;

  constructor(config: GPT2Config) {
    super();
    const inner = config.n_inner ?? 4 * config.n_embd;
    this.c_fc = new Conv1D({ in: config.n_embd, out: inner, device: 'meta' });
    this.c_proj = new Conv1D({ in: inner, out: config.n_embd, device: 'meta' });
    this.dropout = new Dropout(config.resid_pdrop);
    this.#activation = activation(config.activation_function);
    this.#isTanhGelu = isTanhGelu(config.activation_function);
  }

  forward(x: Tensor): Tensor {
    return this.dropout.forward(this.#project(this.c_fc.forward(x))); // (B, T, C)
  }

  #project(x: Tensor): Tensor {
    const { c_proj } = this;
    if (this.#isTanhGelu && isGeluFirst(c_proj)) return c_proj.forwardGelu(x);
    return c_proj.forward(this.#activation(x));
  }
}

/** One block: attention and MLP, each behind a LayerNorm and added to what came in. */
export class GPT2Block extends Module {
  ln_1: LayerNorm;
  attn: GPT2Attention;
  ln_2: LayerNorm;
  mlp: GPT2MLP;

  constructor(config: GPT2Config, layer: number) {
    super();
    const norm = { size: config.n_embd, eps: config.layer_norm_epsilon, device: 'meta' };
    this.ln_1 = new LayerNorm(norm);
    this.attn = new GPT2Attention(config, layer);
    this.ln_2 = new LayerNorm(norm);
    this.mlp = new GPT2MLP(config);
  }

  /** x (B, T, C); mask (B, 1, T, S) bool, or null for plain causal attention. */
  forward(x: Tensor, mask: Tensor | null = null, cache: KVCache | null = null): Tensor {
    const h = ops.add(x, this.attn.forward(this.ln_1.forward(x), mask, cache)); // (B, T, C)
    return ops.add(h, this.mlp.forward(this.ln_2.forward(h))); // (B, T, C)
  }
}

/** Embeddings of ids; an id that the vocabulary lacks is named, where libtorch refuses it (on the CPU). */
function embedTokens(wte: Embedding, ids: Tensor): Tensor {
  try {
    return wte.forward(ids);
  } catch (cause) {
    const size = wte.weight.shape[0]!;
    const bad =
      ids.device === 'cpu' ? Array.from(ids.dataSync(), Number).find((id) => id < 0 || id >= size) : undefined;
    if (bad === undefined) throw cause;
    throw new ShardloopError(
      'BAD_ARGUMENT',
      `GPT-2: expected token ids from 0 to ${size - 1} (vocab_size ${size}), received ${bad}; is the tokenizer that of the model?`,
      { cause },
    );
  }
}

/** The stack without its head. */
export class GPT2Model extends Module {
  wte: Embedding;
  wpe: Embedding;
  drop: Dropout;
  h: GPT2Block[];
  ln_f: LayerNorm;

  constructor(config: GPT2Config) {
    super();
    const { vocab_size, n_positions, n_embd: size } = config;
    this.wte = new Embedding({ count: vocab_size, size, device: 'meta' });
    this.wpe = new Embedding({ count: n_positions, size, device: 'meta' });
    this.drop = new Dropout(config.embd_pdrop);
    this.h = Array.from({ length: config.n_layer }, (_, layer) => new GPT2Block(config, layer));
    this.ln_f = new LayerNorm({ size, eps: config.layer_norm_epsilon, device: 'meta' });
  }

  /** Token and position embeddings: ids (B, T), positions (B, T) or (1, T) -> (B, T, C). */
  embed(ids: Tensor, positions: Tensor): Tensor {
    return this.drop.forward(ops.add(embedTokens(this.wte, ids), this.wpe.forward(positions)));
  }

  /** Final hidden states (B, T, C), behind the last LayerNorm. */
  forward(ids: Tensor, positions: Tensor, mask: Tensor | null = null, cache: KVCache | null = null): Tensor {
    let x = this.embed(ids, positions); // (B, T, C)
    for (const block of this.h) x = block.forward(x, mask, cache);
    return this.ln_f.forward(x);
  }
}

/**
 * GPT-2 with its language-model head. A new one is initialised by GPT-2's rules from the global random state and is in
 * training mode; `loadModel` reads a published one. Parameters carry Hugging Face's names.
 */
export class GPT2LMHeadModel extends Module {
  readonly config: GPT2Config;
  /** The folder or name that the weights came from; an adapter's folder names it as its base. */
  source: string | null = null;
  transformer: GPT2Model;
  lm_head: UnaryModule;

  /** Throws BAD_MODEL for a configuration that no GPT-2 can have, BAD_ARGUMENT for a key that no GPT-2 has. */
  constructor(config: Partial<GPT2Config> = {}, options: GPT2Options = {}) {
    super();
    checkOptions('GPT2LMHeadModel', config, GPT2_CONFIG_KEYS);
    this.config = gpt2Config(config);
    this.transformer = new GPT2Model(this.config);
    const head = new Linear({ in: this.config.n_embd, out: this.config.vocab_size, bias: false, device: 'meta' });
    this.lm_head = head;
    if (this.config.tie_word_embeddings) {
      head.weight.dispose();
      head.weight = this.transformer.wte.weight;
    }
    const { dtype = 'float32', device = 'cpu' } = options;
    if (device === 'meta') this.to({ dtype });
    else {
      const fresh = ([name, t]: [string, Tensor]): [string, Tensor] => [name, empty([...t.shape], { dtype, device })];
      this.loadStateDict(new Map(this.namedParameters().map(fresh)), { assign: true });
      init.gpt2(this, { layers: this.config.n_layer, std: this.config.initializer_range });
    }
  }

  /** Scores of the next token: ids (B, T) int64 or int32 -> logits (B, T, V). Throws BAD_ARGUMENT beyond n_positions. */
  forward(ids: Tensor, options: GPT2ForwardOptions = {}): Tensor {
    const x = this.#hidden(ids, options); // (B, T, C)
    const T = ids.shape[1]!;
    const { keepLast: n = T } = options;
    if (!Number.isSafeInteger(n) || n < 1 || n > T) {
      throw new ShardloopError('BAD_ARGUMENT', `GPT-2: keepLast: expected 1 to ${T}, received ${describe(n)}`);
    }
    return this.lm_head.forward(n === T ? x : ops.slice(x, { dim: 1, start: T - n, end: T })); // (B, T or n, V)
  }

  /**
   * The mean negative log-likelihood of each next token, a float32 scalar. labels (B, T) int64 stand at their own
   * positions (they are shifted here, as in transformers); -100 does not count.
   */
  loss(ids: Tensor, labels: Tensor, options: GPT2ForwardOptions = {}): Tensor {
    return scope(() => {
      const hidden = this.#hidden(ids, options); // (B, T, C)
      const next = ops.slice(labels, { dim: 1, start: 1, end: ids.shape[1]! });
      return this.#headLoss(hidden, ops.constant_pad_nd(next, [0, 1], { value: -100 }));
    });
  }

  #hidden(ids: Tensor, options: GPT2ForwardOptions): Tensor {
    const [input, positions, mask = null] = this.inputs(ids, options);
    const x = this.transformer.forward(input!, positions!, mask, options.cache ?? null);
    options.cache?.advance(ids.shape[1]!);
    return x; // (B, T, C)
  }

  /** The loss of targets (B, T) under the scores of hidden states, which stand as a whole only where the head is not plain. */
  #headLoss(hidden: Tensor, targets: Tensor, divisor?: number): Tensor {
    const head = this.lm_head;
    if (head instanceof Linear && head.forward === Linear.prototype.forward && head.bias === null) {
      return linearCrossEntropy(hidden, head.weight, targets, { divisor });
    }
    const logits = head.forward(hidden); // (B, T, V)
    if (divisor === undefined) return crossEntropy(logits, targets);
    return ops.div(crossEntropy(logits, targets, { reduction: 'sum' }), divisor);
  }

  /** The matrix that turns hidden states into scores; `all-linear` of LoRA leaves it out. */
  outputHead(): Module {
    return this.lm_head;
  }

  /** A cache for `length` positions (default n_positions) of `batch` sequences, for `forward`'s `cache`. */
  makeCache(batch: number, length = this.config.n_positions): KVCache {
    const { n_layer: layers, n_head: heads, n_embd } = this.config;
    const { dtype, device } = this.transformer.wte.weight;
    return new KVCache({ layers, batch, heads, headSize: n_embd / heads, length, dtype, device });
  }

  /**
   * 'embedding' ([ids, positions, ...rest] -> [x, ...rest]), 'h.0', ..., 'head' ([x, ...rest] -> [logits], or where targets
   * came in, [loss]: the sum over them divided by the divisor).
   */
  override segments(): Segment[] {
    const { wte, wpe, drop, h, ln_f } = this.transformer;
    return [
      segment('embedding', [wte, wpe, drop], ([ids, positions, ...rest]: Carry) => [
        this.transformer.embed(ids!, positions!),
        ...rest,
      ]),
      ...h.map((block, i) =>
        segment(`h.${i}`, [block], ([x, ...rest]: Carry) => [block.forward(x!, maskOf(rest)), ...rest]),
      ),
      segment('head', [ln_f, this.lm_head], ([x, ...rest]: Carry) => {
        const hidden = ln_f.forward(x!); // (B, T, C)
        const wanted = targetsOf(rest);
        return [wanted ? this.#headLoss(hidden, wanted.targets, wanted.divisor) : this.lm_head.forward(hidden)];
      }),
    ];
  }

  /**
   * The carry of the first segment, checked: ids (B, T), positions (B, T) or (1, T), a mask (B, 1, T, S) if needed, and with
   * targets these and their divisor.
   */
  inputs(ids: Tensor, options: GPT2InputOptions = {}): Carry {
    return gpt2Inputs(ids, options, this.config.n_positions);
  }
}
