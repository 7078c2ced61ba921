// The segment loop: gradients bit-equal to one backward over the whole graph, whatever is checkpointed, and the calls
// that a strategy sees.
import { describe, expect, it } from 'vitest';
import {
  backward,
  getRandomState,
  manualSeed,
  memory,
  ops,
  scope,
  setRandomState,
  type Tensor,
  tensor,
} from '../../lib/core/index.js';
import { GPT2LMHeadModel } from '../../lib/models/gpt2/model.js';
import { type Carry, crossEntropy, segmentsOf } from '../../lib/nn/index.js';
import {
  alone,
  type Checkpointing,
  forwardSegments,
  runSegments,
  type Strategy,
  skipSegments,
} from '../../lib/parallel/index.js';

const shape = {
  vocab_size: 31,
  n_positions: 16,
  n_embd: 24,
  n_layer: 3,
  n_head: 2,
  resid_pdrop: 0.2,
  embd_pdrop: 0.2,
  attn_pdrop: 0.2,
};

function make(options: object = {}) {
  manualSeed(7);
  const model = new GPT2LMHeadModel({ ...shape, ...options });
  const ids = tensor(
    Array.from({ length: 20 }, (_, i) => BigInt((i * 7) % 31)),
    { shape: [2, 10] },
  );
  const labels = tensor(
    Array.from({ length: 20 }, (_, i) => BigInt((i * 5) % 31)),
    { shape: [20] },
  );
  const lossOf = ([logits]: Carry): Tensor => scope(() => crossEntropy(ops.reshape(logits!, [20, 31]), labels));
  return { model, ids, lossOf };
}

const gradients = (model: GPT2LMHeadModel): Map<string, number[] | null> =>
  new Map(
    model
      .namedParameters()
      .map(([name, p]) => [name, p.grad === null ? null : [...(p.grad.dataSync() as Float32Array)]]),
  );

function whole(setup: ReturnType<typeof make>): { loss: number; grads: Map<string, number[] | null> } {
  const { model, ids, lossOf } = setup;
  const state = getRandomState();
  const loss = scope(() => {
    const value = lossOf([model.forward(ids)]);
    backward([value]);
    return value.detach();
  });
  const grads = gradients(model);
  model.zeroGrad();
  setRandomState(state);
  return { loss: Number(loss.itemSync()), grads };
}

describe('runSegments', () => {
  const modes: Checkpointing[] = ['none', 'full', 1, 2, 3];
  it.each(modes)(
    'gives the whole graph’s loss and gradients bit for bit, dropout included (checkpointing %s)',
    (checkpointing) => {
      for (const options of [{}, { tie_word_embeddings: false }]) {
        const setup = make(options);
        const expected = whole(setup);
        const loss = runSegments(segmentsOf(setup.model), setup.model.inputs(setup.ids), setup.lossOf, {
          checkpointing,
        });
        expect(Number(loss.itemSync())).toBe(expected.loss);
        expect(gradients(setup.model)).toEqual(expected.grads);
      }
    },
  );

  it('runs with a padding mask that rides along, and with frozen parameters', () => {
    const setup = make({ resid_pdrop: 0, embd_pdrop: 0, attn_pdrop: 0 });
    const mask = tensor(
      [
        [1, 1, 1, 1, 1, 1, 1, 1, 1, 1],
        [1, 1, 1, 1, 1, 1, 0, 0, 0, 0],
      ],
      { dtype: 'bool' },
    );
    for (const [name, p] of setup.model.namedParameters()) p.requiresGrad = name.includes('h.1.');
    backward([setup.lossOf([setup.model.forward(setup.ids, { attentionMask: mask })])]);
    const expected = gradients(setup.model);
    for (const checkpointing of modes) {
      setup.model.zeroGrad();
      runSegments(segmentsOf(setup.model), setup.model.inputs(setup.ids, { attentionMask: mask }), setup.lossOf, {
        checkpointing,
      });
      expect(gradients(setup.model)).toEqual(expected);
    }
  });

  it('accumulates over micro-batches', () => {
    const setup = make({ resid_pdrop: 0, embd_pdrop: 0, attn_pdrop: 0 });
    const { grads } = whole(setup);
    for (let i = 0; i < 2; i++) runSegments(segmentsOf(setup.model), setup.model.inputs(setup.ids), setup.lossOf);
    const twice = gradients(setup.model);
    // Not bit-equal: the tied weight adds up its two contributions in another order. fp32, a few sums: 1e-6 of the largest.
    for (const [name, values] of grads) {
      const largest = Math.max(...values!.map(Math.abs));
      const error = Math.max(...values!.map((v, i) => Math.abs(2 * v - twice.get(name)![i]!)));
      expect(error, name).toBeLessThanOrEqual(2e-6 * largest);
    }
  });

  it('calls the strategy in order, and says for which pass and whether it is the last', () => {
    const setup = make();
    const calls: string[] = [];
    const strategy: Strategy = {
      ...alone,
      gather: (k, pass) => calls.push(`g${k}${pass[0]}`),
      release: (k, pass) => calls.push(`r${k}${pass[0]}`),
      reduce: (k, last) => calls.push(`R${k}${last ? '' : '-'}`),
    };
    const taken = () => calls.splice(0).join(' ');
    const segments = segmentsOf(setup.model);
    const forward = 'g0f r0f g1f r1f g2f r2f g3f r3f g4f r4f';
    const step = `${forward} g4b R4 r4b g3b R3 r3b g2b R2 r2b g1b R1 r1b g0b R0 r0b`;
    const early = step.replace(/R\d/g, (call) => `${call}-`);
    runSegments(segments, setup.model.inputs(setup.ids), setup.lossOf, { strategy });
    expect(taken()).toBe(step);
    skipSegments(segments, strategy);
    expect(taken()).toBe(step);
    skipSegments(segments, strategy, false);
    expect(taken()).toBe(early);
    runSegments(segments, setup.model.inputs(setup.ids), setup.lossOf, { strategy, last: false });
    expect(taken()).toBe(early);
    forwardSegments(segments, setup.model.inputs(setup.ids), strategy);
    expect(taken()).toBe(forward.replace(/f/g, 'e'));
  });

  it('leaves no tensor behind but gradients and the loss', () => {
    const setup = make();
    const run = (): void => {
      const input = setup.model.inputs(setup.ids);
      const loss = runSegments(segmentsOf(setup.model), input, setup.lossOf, { checkpointing: 2 });
      for (const t of [loss, input[1]!]) t.dispose();
      setup.model.zeroGrad();
    };
    run();
    const before = memory.stats().handles;
    for (let i = 0; i < 5; i++) run();
    expect(memory.stats().handles).toBe(before);
  });

  it('frees a segment’s activations as its backward ends', () => {
    const setup = make();
    const bytes: number[] = [];
    const strategy: Strategy = {
      ...alone,
      reduce: () => bytes.push(memory.stats().handles),
    };
    runSegments(segmentsOf(setup.model), setup.model.inputs(setup.ids), setup.lossOf, { strategy });
    for (let i = 1; i < bytes.length; i++) expect(bytes[i]).toBeLessThan(bytes[i - 1]!);
  });
});

describe('forwardSegments', () => {
  it('gives the logits of forward, without a graph', () => {
    const setup = make();
    setup.model.eval();
    const [logits] = forwardSegments(segmentsOf(setup.model), setup.model.inputs(setup.ids));
    expect(logits!.requiresGrad).toBe(false);
    expect(logits!.dataSync()).toEqual(setup.model.forward(setup.ids).dataSync());
  });
});
