// Generation: draws, stops, streams; that it equals transformers at temperature 0 is in test/oracle/gpt2.test.ts.
import { describe, expect, it } from 'vitest';
import { getRandomState, manualSeed, memory, noGrad, ops, tensor } from '../../lib/core/index.js';
import { GPT2LMHeadModel, generate } from '../../lib/models/index.js';
import { pickTokens, uniformStream } from '../../lib/models/sample.js';

manualSeed(5);
const model = new GPT2LMHeadModel({
  vocab_size: 50,
  n_positions: 32,
  n_embd: 16,
  n_layer: 2,
  n_head: 2,
  initializer_range: 0.5,
});
model.eval();
const prompt = [3, 1, 4];

describe('generate', () => {
  it('leaves no tensor alive', async () => {
    const before = memory.stats().handles;
    await generate(model, prompt, { maxNewTokens: 4, temperature: 1, topK: 5, topP: 0.9 });
    await expect(generate(model, prompt, { onToken: () => Promise.reject(new Error('stop')) })).rejects.toThrow('stop');
    expect(memory.stats().handles).toBe(before);
  });

  it('without a temperature takes the most probable token each time', async () => {
    const tokens = await generate(model, prompt, { maxNewTokens: 6 });
    const text = [...prompt];
    for (const token of tokens) {
      const logits = noGrad(() => model.forward(tensor([text], { dtype: 'int64' })));
      expect(token).toBe(ops.argmax(logits.get(0, text.length - 1)).itemSync());
      text.push(token);
    }
    expect(tokens.length).toBe(6);
  });

  it('draws the same tokens from the same seed, others from another, and leaves the random state alone', async () => {
    const state = getRandomState().toArray();
    const draw = (seed: number | bigint) => generate(model, prompt, { maxNewTokens: 12, temperature: 1.5, seed });
    expect(await draw(1)).toEqual(await draw(1n));
    expect(await draw(1)).not.toEqual(await draw(2));
    const free = { maxNewTokens: 12, temperature: 1.5 };
    expect(await generate(model, prompt, free)).not.toEqual(await generate(model, prompt, free));
    expect(getRandomState().toArray()).toEqual(state);
  });

  it('treats each prompt of a batch as if it were alone, draws aside', async () => {
    const prompts = [[3, 1, 4], [9], [2, 7, 1, 8, 2]];
    const together = await generate(model, prompts, { maxNewTokens: 8 });
    for (const [row, one] of prompts.entries()) {
      expect(await generate(model, one, { maxNewTokens: 8 })).toEqual(together[row]);
    }
    const rows = await generate(model, [prompt, prompt], { maxNewTokens: 12, temperature: 2, seed: 4 });
    expect(rows[0]).not.toEqual(rows[1]);
  });

  it('stops at an end token, which is not returned, also in one row of a batch', async () => {
    const plain = await generate(model, prompt, { maxNewTokens: 8 });
    const eos = plain[3]!;
    const cut = plain.slice(0, plain.indexOf(eos));
    const reasons: [string, number][] = [];
    const onFinish = (reason: string, row: number) => reasons.push([reason, row]);
    expect(await generate(model, prompt, { maxNewTokens: 8, eos, onFinish })).toEqual(cut);
    expect(await generate(model, prompt, { maxNewTokens: 8, eos: [49, eos] })).toEqual(cut);
    expect(reasons).toEqual([['eos', 0]]);
    const own = new GPT2LMHeadModel({ ...model.config, eos_token_id: eos });
    own.loadStateDict(model.stateDict());
    expect(await generate(own, prompt, { maxNewTokens: 8 })).toEqual(cut);
    expect(await generate(own, prompt, { maxNewTokens: 8, eos: null })).toEqual(plain);
  });

  it("stops at the model's longest sequence, and says so", async () => {
    const reasons: string[] = [];
    const tokens = await generate(model, new Array(30).fill(1), { onFinish: (reason) => reasons.push(reason) });
    expect(tokens.length).toBe(2);
    expect(reasons).toEqual(['context']);
    await expect(generate(model, new Array(32).fill(1))).rejects.toThrow(
      /the prompt has 32 tokens; this model holds 32/,
    );
  });

  it('hands out each token, waits for who takes it, and can be stopped', async () => {
    const seen: [number, number][] = [];
    const tokens = await generate(model, [prompt, [9]], {
      maxNewTokens: 3,
      onToken: async (token, row) => {
        await new Promise((resolve) => setTimeout(resolve, 1));
        seen.push([row, token]);
      },
    });
    expect(seen).toEqual(
      [0, 1, 2].flatMap((i) => [
        [0, tokens[0]![i]],
        [1, tokens[1]![i]],
      ]),
    );
    const stop = new AbortController();
    const stopped = generate(model, prompt, { signal: stop.signal, onToken: () => stop.abort() });
    await expect(stopped).rejects.toMatchObject({ code: 'INTERRUPTED' });
  });

  it("runs in evaluation mode and puts each module's own mode back", async () => {
    const other = new GPT2LMHeadModel({ ...model.config, resid_pdrop: 0.9 });
    other.loadStateDict(model.stateDict());
    other.transformer.ln_f.eval();
    expect(await generate(other, prompt, { maxNewTokens: 5 })).toEqual(
      await generate(model, prompt, { maxNewTokens: 5 }),
    );
    expect([other.training, other.transformer.ln_f.training]).toEqual([true, false]);
  });

  it.each([
    ['an empty prompt', [], {}, /prompt 0 is empty/],
    ['no prompts that are lists', [[1], []], {}, /prompt 1 is empty/],
    ['ids that are none', [1.5], {}, /expected token ids, received 1.5/],
    ['no new tokens', [1], { maxNewTokens: 0 }, /maxNewTokens/],
    ['a negative temperature', [1], { temperature: -1 }, /temperature/],
    ['topK 0', [1], { topK: 0 }, /topK/],
    ['topP 0', [1], { topP: 0 }, /topP/],
    ['a fraction of a seed', [1], { seed: 0.5 }, /seed/],
  ])('refuses %s', async (_, ids, options, message) => {
    await expect(generate(model, ids as number[], options)).rejects.toThrow(message);
  });

  it('refuses token ids that the vocabulary lacks, by name', async () => {
    await expect(generate(model, [3, 50])).rejects.toThrow("below the model's vocab_size 50, received 50");
  });

  it('refuses a model that has diverged', async () => {
    const broken = new GPT2LMHeadModel(model.config);
    noGrad(() => broken.transformer.ln_f.weight.fill_(Number.NaN));
    await expect(generate(broken, prompt)).rejects.toThrow(/scores are NaN/);
  });
});

describe('pickTokens', () => {
  const logits = tensor([
    [0, 3, 1, 2],
    [2, 2, -9, 5],
  ]);
  const frequencies = (options: object, row: number) => {
    const counts = [0, 0, 0, 0];
    const draw = uniformStream(7n, row);
    const many = logits.get(row).expand([4000, 4]);
    for (const token of pickTokens(many, options, Array.from({ length: 4000 }, draw))) counts[token]!++;
    return counts.map((count) => count / 4000);
  };
  const softmax = (values: number[]) => {
    const sum = values.reduce((total, value) => total + Math.exp(value), 0);
    return values.map((value) => Math.exp(value) / sum);
  };

  it('draws as often as the probabilities say, at every temperature', () => {
    for (const temperature of [1, 0.5]) {
      const expected = softmax([0, 3, 1, 2].map((value) => value / temperature));
      const measured = frequencies({ temperature }, 0);
      for (const [token, share] of expected.entries()) expect(Math.abs(measured[token]! - share)).toBeLessThan(0.03);
    }
  });

  it('takes the best at temperatures near 0, however near, and equal ones alike', () => {
    for (const temperature of [1e-6, 1e-40, 1e-300, Number.MIN_VALUE]) {
      const picked = pickTokens(tensor([[1, 3, 2, -5e4, 3e4, 2e4]]), { temperature }, [0.999]);
      expect(picked, String(temperature)).toEqual([4]);
      const even = pickTokens(
        tensor([
          [7, 7, 1],
          [7, 7, 1],
        ]),
        { temperature },
        [0.1, 0.9],
      );
      expect(new Set(even)).toEqual(new Set([0, 1]));
    }
  });

  it('draws from the k best, or from the best that reach p', () => {
    expect(frequencies({ temperature: 1, topK: 2 }, 0).map((share) => share > 0)).toEqual([false, true, false, true]);
    expect(frequencies({ temperature: 1, topP: 0.7 }, 0).map((share) => share > 0)).toEqual([false, true, false, true]);
    expect(frequencies({ temperature: 1, topP: 0.1 }, 1)).toEqual([0, 0, 0, 1]);
    expect(frequencies({ temperature: 1, topK: 100 }, 0)[1]).toBeGreaterThan(0.5);
  });

  it('takes the ends of the range of a draw', () => {
    expect(pickTokens(logits, { temperature: 1 }, [0, 0])).toEqual([1, 3]);
    expect(pickTokens(logits, { temperature: 1, topK: 2 }, [1 - 2 ** -53, 0])).toEqual([3, 3]);
  });
});
