// Text, token by token: prompts in, new tokens out, with a cache of keys and values. Waits for the event loop between
// tokens. Not here: the choice of a token (sample.ts), text and templates (data/).
import { randomInt } from 'node:crypto';
import { setImmediate as nextTurn } from 'node:timers/promises';
import { describe, noGrad, ops, ShardloopError, scope, type Tensor, tensor } from '../core/index.js';
import { nameOf } from '../core/option-names.js';
import { checkOptions } from '../core/options.js';
import type { Module } from '../nn/index.js';
import type { KVCache } from './kv-cache.js';
import { checkSampleOptions, pickTokens, type SampleOptions, uniformStream } from './sample.js';

/** What {@link generate} asks of a model. */
export interface CausalModel extends Module {
  readonly config: {
    readonly n_positions: number;
    readonly vocab_size: number;
    readonly eos_token_id: number | readonly number[] | null;
  };
  forward(
    ids: Tensor,
    options: { positionIds: Tensor; attentionMask?: Tensor; cache: KVCache; keepLast: number },
  ): Tensor;
  /** An empty cache for `length` positions of `batch` sequences. */
  makeCache(batch: number, length: number): KVCache;
}

/** Why a sequence ended: its end token, the asked number of tokens, or the model's longest sequence. */
export type FinishReason = 'eos' | 'length' | 'context';

/** How {@link generate} goes on and when it stops. */
export interface GenerateOptions extends SampleOptions {
  /** The most tokens that are added. Default 128. */
  readonly maxNewTokens?: number;
  /** Decides every draw; the same seed gives the same tokens. Default: a random one. */
  readonly seed?: number | bigint;
  /** Token or tokens that end a sequence (the end token is not returned); null for none. Default: the model's. */
  readonly eos?: number | readonly number[] | null;
  /** Called for each new token (not for the end token) with the number of its prompt; awaited. */
  readonly onToken?: (token: number, row: number) => void | Promise<void>;
  /** Called when the sequence of a prompt ends. */
  readonly onFinish?: (reason: FinishReason, row: number) => void;
  /** Stops between two tokens with INTERRUPTED. */
  readonly signal?: AbortSignal;
}

const OPTIONS = ['temperature', 'topK', 'topP', 'maxNewTokens', 'seed', 'eos', 'onToken', 'onFinish', 'signal'];

/**
 * Continues one prompt, or several at once (each as if it were alone), and resolves to the new tokens only. A prompt
 * and its new tokens together hold at most n_positions tokens (in a batch, counted from the longest prompt): there
 * generation stops with the reason 'context'. Runs in evaluation mode, and puts the model's mode back.
 *
 * Throws BAD_ARGUMENT for an empty prompt, a prompt without room for a token, or an option out of range.
 */
export async function generate(
  model: CausalModel,
  ids: readonly number[],
  options?: GenerateOptions,
): Promise<number[]>;
export async function generate(
  model: CausalModel,
  ids: readonly (readonly number[])[],
  options?: GenerateOptions,
): Promise<number[][]>;
export async function generate(
  model: CausalModel,
  ids: readonly number[] | readonly (readonly number[])[],
  options: GenerateOptions = {},
): Promise<number[] | number[][]> {
  checkOptions('generate', options, OPTIONS);
  if (!Array.isArray(ids)) {
    const expected = 'expected an array of token ids, or an array of such arrays';
    throw new ShardloopError('BAD_ARGUMENT', `generate: ${expected}, received ${describe(ids)}`);
  }
  const single = !Array.isArray(ids[0]);
  const prompts = (single ? [ids] : ids) as readonly (readonly number[])[];
  const modes = model.namedModules().map(([, module]) => [module, module.training] as const);
  model.eval();
  try {
    const rows = await continueAll(model, prompts, options);
    return single ? rows[0]! : rows;
  } finally {
    for (const [module, training] of modes) module.training = training;
  }
}

async function continueAll(
  model: CausalModel,
  prompts: readonly (readonly number[])[],
  options: GenerateOptions,
): Promise<number[][]> {
  const { maxNewTokens = 128, eos = model.config.eos_token_id, onToken, onFinish, signal } = options;
  const longest = checkPrompts(prompts, model.config, maxNewTokens);
  checkSampleOptions(options);
  const ends = new Set<number>(eos === null ? [] : typeof eos === 'number' ? [eos] : eos);
  const room = Math.min(maxNewTokens, model.config.n_positions - longest);
  const { seed: given = randomInt(2 ** 48 - 1) } = options;
  if (typeof given !== 'bigint' && !Number.isSafeInteger(given)) {
    throw new ShardloopError(
      'BAD_ARGUMENT',
      `generate: ${nameOf('seed')}: expected an integer, received ${describe(given)}`,
    );
  }
  const seed = BigInt(given);
  const streams = prompts.map((_, row) => uniformStream(seed, row));
  const rows: number[][] = prompts.map(() => []);
  const running = new Set(rows.keys());
  const finish = (row: number, reason: FinishReason) => {
    running.delete(row);
    onFinish?.(reason, row);
  };
  const padding = prompts.map((prompt) => longest - prompt.length);
  const { device } = model.parameters()[0]!;
  using cache = model.makeCache(prompts.length, longest + room - 1);
  let input: number[][] = prompts.map((prompt, row) => [
    ...new Array<number>(padding[row]!).fill(prompt[0]!),
    ...prompt,
  ]);
  for (let count = 1; running.size > 0; count++) {
    if (signal?.aborted) throw new ShardloopError('INTERRUPTED', 'generate: stopped by its signal');
    const draws = streams.map((draw) => draw());
    const tokens = step(model, input, cache, padding, device, options, draws);
    for (const row of [...running]) {
      const token = tokens[row]!;
      if (ends.has(token)) finish(row, 'eos');
      else {
        rows[row]!.push(token);
        await onToken?.(token, row);
        if (count === room) finish(row, room < maxNewTokens ? 'context' : 'length');
      }
    }
    input = tokens.map((token) => [token]);
    await nextTurn();
  }
  return rows;
}

/** Feeds `input` (B, T) behind what the cache holds, and picks the next token of each row. */
function step(
  model: CausalModel,
  input: number[][],
  cache: KVCache,
  padding: readonly number[],
  device: string,
  options: SampleOptions,
  draws: readonly number[],
): number[] {
  const [past, T] = [cache.length, input[0]!.length];
  return noGrad(() =>
    scope(() => {
      const integers = (rows: number[][]) => tensor(rows, { dtype: 'int64', device }); // (B, T)
      // Padding stands in front and has no position of its own: a row's positions count from its first token.
      const positions = padding.map((pad) => Array.from({ length: T }, (_, i) => Math.max(0, past + i - pad)));
      const mask = () => padding.map((pad) => Array.from({ length: past + T }, (_, i) => (i >= pad ? 1 : 0)));
      const logits = model.forward(integers(input), {
        positionIds: integers(positions),
        attentionMask: padding.some((pad) => pad > 0) ? integers(mask()) : undefined,
        cache,
        keepLast: 1,
      }); // (B, 1, V)
      return pickTokens(ops.select(logits, 1, -1), options, draws);
    }),
  );
}

function checkPrompts(
  prompts: readonly (readonly number[])[],
  { n_positions: positions, vocab_size: size }: CausalModel['config'],
  maxNewTokens: number,
): number {
  const refuse = (message: string) => {
    throw new ShardloopError('BAD_ARGUMENT', `generate: ${message}`);
  };
  if (!Number.isSafeInteger(maxNewTokens) || maxNewTokens < 1) {
    refuse(`${nameOf('maxNewTokens')}: expected a positive integer, received ${describe(maxNewTokens)}`);
  }
  if (prompts.length === 0) refuse('expected at least one prompt');
  for (const [row, prompt] of prompts.entries()) {
    if (!Array.isArray(prompt)) refuse(`prompt ${row}: expected an array of token ids, received ${describe(prompt)}`);
    if (prompt.length === 0) refuse(`prompt ${row} is empty; give at least one token, such as the begin token`);
    const bad = prompt.find((id) => !Number.isSafeInteger(id) || id < 0);
    if (bad !== undefined) refuse(`prompt ${row}: expected token ids, received ${describe(bad)}`);
    const beyond = prompt.find((id) => id >= size);
    if (beyond !== undefined) {
      refuse(`prompt ${row}: expected token ids below the model's vocab_size ${size}, received ${beyond}`);
    }
  }
  const longest = Math.max(...prompts.map((prompt) => prompt.length));
  if (longest >= positions) {
    refuse(
      `the prompt has ${longest} tokens; this model holds ${positions} with the answer, so cut it to ${positions - 1}`,
    );
  }
  return longest;
}
