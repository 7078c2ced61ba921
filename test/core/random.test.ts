// Seeds and the random state: the same seed gives the same numbers, as Python's torch too.
import { describe, expect, it } from 'vitest';
import {
  Generator,
  getRandomState,
  manualSeed,
  noGrad,
  ops,
  rand,
  randint,
  randn,
  scope,
  setRandomState,
  tensor,
  zeros,
} from '../../lib/index.js';
import { raises } from './raises.js';

it('a seed repeats, another differs, and the numbers are those of Python', () => {
  manualSeed(0);
  const first = rand([3]).toArray();
  // torch.manual_seed(0); torch.rand(3)
  expect(first).toEqual([0.49625658988952637, 0.7682217955589294, 0.08847743272781372]);
  manualSeed(0);
  expect(rand([3]).toArray()).toEqual(first);
  manualSeed(1);
  expect(rand([3]).toArray()).not.toEqual(first);
});

it('the state can be taken and put back', () => {
  const state = getRandomState();
  expect([state.dtype, state.shape]).toEqual(['uint8', [5056]]);
  const draw = (): unknown => [randn([5]).toArray(), ops.dropout(tensor([1, 1, 1, 1]), 0.5, true).toArray()];
  const first = draw();
  const second = draw();
  setRandomState(state);
  expect(draw()).toEqual(first);
  expect(draw()).toEqual(second);
  const copy = tensor(state.dataSync());
  setRandomState(copy);
  expect(draw()).toEqual(first);
});

it('takes 64-bit seeds', () => {
  for (const seed of [2n ** 63n - 1n, -(2n ** 63n), -1, Number.MAX_SAFE_INTEGER]) {
    manualSeed(seed);
    const first = randn([2]).toArray();
    manualSeed(seed);
    expect(randn([2]).toArray()).toEqual(first);
  }
});

it('randint stays in its range', () => {
  const values = new Set(randint(-2, 3, [1000]).toArray() as number[]);
  expect([...values].sort((a, b) => a - b)).toEqual([-2, -1, 0, 1, 2]);
  raises('OP_FAILED', () => randint(3, 3, [1]));
  raises('BAD_ARGUMENT', () => randint(0.5, 3, [1]));
});

it('refuses other seeds and other states', () => {
  for (const seed of [0.5, Number.NaN, 2 ** 60, 2n ** 64n, '1', null])
    raises('BAD_ARGUMENT', () => manualSeed(seed as never));
  raises('TENSOR_FOREIGN', () => setRandomState({} as never));
  raises('OP_FAILED', () => setRandomState(tensor([1, 2, 3])));
  raises('OP_FAILED', () => setRandomState(tensor(new Uint8Array(10))));
  noGrad(() => randn([1]));
});

describe('Generator', () => {
  it('gives the numbers of its seed, and leaves the default one alone', () => {
    manualSeed(7);
    const expected = randn([4]).toArray();
    const state = getRandomState();
    const generator = new Generator(7);
    expect(randn([4], { generator }).toArray()).toEqual(expected);
    expect(randn([4], { generator }).toArray()).not.toEqual(expected);
    expect(getRandomState().dataSync()).toEqual(state.dataSync());
    for (const draw of [
      () => ops.randn([4], { generator: new Generator(7) }),
      () => zeros([4]).normal_({ generator: new Generator(7) }),
      () => ops.randn([4], { generator: new Generator(7), dtype: 'float32' }),
    ]) {
      expect(draw().toArray()).toEqual(expected);
    }
  });

  it('serves every random function, among them those that take it in the middle', () => {
    const twice = (draw: (generator: Generator) => { toArray(): unknown }): void => {
      expect(draw(new Generator(3)).toArray()).toEqual(draw(new Generator(3)).toArray());
    };
    twice((generator) => rand([5], { generator }));
    twice((generator) => randint(0, 100, [5], { generator }));
    twice((generator) => ops.randperm(10, { generator }));
    twice((generator) => ops.multinomial(tensor([1, 2, 3]), 5, { replacement: true, generator }));
    twice((generator) => ops.bernoulli(tensor([0.5, 0.5, 0.5]), { generator }));
    twice((generator) => zeros([5]).uniform_({ from: 1, to: 2, generator }));
  });

  it('its state can be taken and put back', () => {
    const generator = new Generator(1n);
    const state = generator.getState();
    const first = randn([3], { generator }).toArray();
    generator.setState(state);
    expect(randn([3], { generator }).toArray()).toEqual(first);
  });

  it('outlives the scope that made it, and ends when disposed', () => {
    const generator = scope(() => {
      const made = new Generator(1);
      return { made };
    }).made;
    expect(randn([1], { generator }).shape).toEqual([1]);
    generator.dispose();
    raises('TENSOR_DISPOSED', () => randn([1], { generator }));
    raises('TENSOR_DISPOSED', () => generator.dispose());
    generator[Symbol.dispose]();
  });

  it('refuses other seeds, states and generators', () => {
    raises('BAD_ARGUMENT', () => new Generator(0.5));
    raises('BAD_ARGUMENT', () => randn([1], { generator: 5 as never }));
    raises('BAD_ARGUMENT', () => ops.randn([1], { generator: {} as never }));
    raises('BAD_ARGUMENT', () => ops.randn([1], { generator: tensor([1]) as never }));
    raises('OP_FAILED', () => new Generator(1).setState(tensor([1])));
    raises('TENSOR_FOREIGN', () => new Generator(1).setState(5 as never));
  });
});
