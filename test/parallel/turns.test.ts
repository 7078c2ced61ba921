// A strategy that is gone, whose group is gone, or whose begin() or finish() nobody awaited: each call says so, or waits. The other
// ranks are faked, and answer late.
import { afterEach, describe, expect, it } from 'vitest';
import { memory, ones, ops, scope } from '../../lib/core/index.js';
import { createGroup, type Group } from '../../lib/dist/index.js';
import { Linear, type Segment, segment } from '../../lib/nn/index.js';
import { MasterWeights, SGD } from '../../lib/optim/index.js';
import { replicate, runSegments, type Strategy, zero } from '../../lib/parallel/index.js';

const opened: Group[] = [];
const ranks = async (size = 2, name = 'pair') => {
  opened.push(await createGroup({ rank: 0, size, backend: 'fake', device: 'delay:20', name }));
  return opened.at(-1)!;
};
afterEach(async () => {
  for (const group of opened.splice(0)) await group.destroy();
});

function model(): { layers: Linear[]; segments: Segment[] } {
  const layers = [new Linear({ in: 4, out: 4 }), new Linear({ in: 4, out: 4 })];
  return { layers, segments: layers.map((layer, i) => segment(`${i}`, [layer], ([x]) => [layer.forward(x!)])) };
}

const micro = (segments: Segment[], strategy: Strategy) =>
  scope(() => void runSegments(segments, [ones([2, 4])], ([y]) => ops.sum(y!), { strategy }));

const WAYS: [string, (segments: Segment[]) => Promise<Strategy>][] = [
  ['replicate', async (segments) => replicate(segments, await ranks())],
  ...([1, 2, 3] as const).map((stage): [string, (segments: Segment[]) => Promise<Strategy>] => [
    `zero ${stage}`,
    async (segments) => zero(segments, await ranks(), { stage }),
  ]),
  [
    'hybrid',
    async (segments) => zero(segments, await ranks(), { stage: 3, replicas: await ranks(2, 'nodes'), bucketBytes: 64 }),
  ],
  ['offload alone', async (segments) => zero(segments, await ranks(1), { stage: 3, offload: 'parameters' })],
];

/** Every call of a strategy by name. */
const calls = (strategy: Strategy, { layers, segments }: ReturnType<typeof model>) =>
  Object.entries({
    begin: () => strategy.begin(segments),
    gather: () => strategy.gather(0, 'forward'),
    release: () => strategy.release(0, 'forward'),
    reduce: () => strategy.reduce(1, true),
    finish: () => strategy.finish(),
    part: () => strategy.part(layers[0]!.weight),
    assemble: () => strategy.assemble([], [], () => {}),
    sumOverParts: () => strategy.sumOverParts(1),
    updated: () => strategy.updated(),
    whole: () => strategy.whole(() => {}),
  });

/** What a call is refused with. */
const refusal = async (call: () => unknown): Promise<unknown> => {
  try {
    await call();
    return 'no error';
  } catch (error) {
    return `${(error as { code?: string }).code}: ${(error as Error).message}`;
  }
};

describe.each(WAYS)('%s', (way, make) => {
  const name = way.split(' ')[0]!.replace(/hybrid|offload/, 'zero');
  const isSharded = !/replicate|zero [12]/.test(way);
  const model3 = isSharded ? 'the model anew, whose parameters are in the shards, and ' : '';
  const anew = `${model3}another strategy with ${name}(segments, group${name === 'zero' ? ', options' : ''})`;

  it('says at each call that it was disposed, and disposes once', async () => {
    const made = model();
    const strategy = await make(made.segments);
    await strategy.begin(made.segments);
    micro(made.segments, strategy);
    await strategy.finish();
    strategy.dispose();
    strategy.dispose();
    for (const [call, run] of calls(strategy, made)) {
      const expected = 'expected a strategy that is in use, received one that was disposed';
      expect(await refusal(run)).toBe(`BAD_ARGUMENT: ${name}: ${call}(): ${expected}; make ${anew}`);
    }
  });

  it('says at each call that its group was destroyed', async () => {
    for (let last = 0; last < (way === 'hybrid' ? 2 : 1); last++) {
      const made = model();
      const strategy = await make(made.segments);
      await strategy.begin(made.segments);
      micro(made.segments, strategy);
      const gone = opened.at(-1 - last)!;
      await gone.destroy();
      for (const [call, run] of calls(strategy, made)) {
        const expected = `expected an open group, received '${gone.name}', which was destroyed`;
        expect(await refusal(run)).toBe(
          `BAD_ARGUMENT: ${name}: ${call}(): ${expected}; make another group, and over it ${anew}`,
        );
      }
      strategy.dispose();
    }
  });

  it('begins a step when a finish() that nobody awaited has ended', async () => {
    const made = model();
    const strategy = await make(made.segments);
    const gradients = () => {
      const parts = made.layers.map(({ weight }) => strategy.part(weight).tensor);
      return parts.map((part) => (part.grad === null ? null : part.grad.toArray()));
    };
    await strategy.begin(made.segments);
    micro(made.segments, strategy);
    await strategy.finish();
    const expected = gradients();
    expect(expected.every((gradient) => gradient !== null)).toBe(true);
    for (let step = 0; step < 2; step++) {
      await strategy.begin(made.segments);
      micro(made.segments, strategy);
      const finished = strategy.finish();
      await strategy.begin(made.segments);
      expect(gradients().every((gradient) => gradient === null)).toBe(true);
      await finished;
      micro(made.segments, strategy);
      void strategy.finish();
      await strategy.finish(); // is the same one
      expect(gradients()).toEqual(expected);
    }
    strategy.dispose();
  });

  it('refuses what comes between finish() and its end, and waits where it can', async () => {
    const made = model();
    const strategy = await make(made.segments);
    await strategy.begin(made.segments);
    micro(made.segments, strategy);
    const finished = strategy.finish();
    const busy = 'expected finish() to be over, received a call while it is under way; await finish() first';
    for (const [call, run] of calls(strategy, made)) {
      if (!['gather', 'release', 'reduce', 'assemble', 'updated'].includes(call)) continue;
      const message = `${name}: ${call}(): ${busy}`;
      expect(run).toThrow(expect.objectContaining({ code: 'BAD_ARGUMENT', message }));
    }
    expect(await Promise.all([strategy.sumOverParts(3), strategy.whole(() => 4)])).toEqual([3, 4]);
    await finished;
    strategy.updated();
    strategy.dispose();
  });

  it('hands gradients out once, and has no use for an optimizer ahead of them', async () => {
    const made = model();
    const strategy = await make(made.segments);
    const gradients = () => made.layers.map(({ weight }) => strategy.part(weight).tensor.grad?.toArray());
    await strategy.begin(made.segments);
    micro(made.segments, strategy);
    const expected = `${name}: updated(): expected the gradients of all ranks to be in before the optimizer uses them`;
    expect(() => strategy.updated()).toThrow(expected);
    await strategy.finish();
    const given = gradients();
    expect(given.every((gradient) => gradient !== undefined)).toBe(true);
    await strategy.finish();
    expect(gradients()).toEqual(given);
    strategy.updated();
    strategy.dispose();
  });

  it('knows its segments', async () => {
    const made = model();
    const strategy = await make(made.segments);
    const fewer = `${name}: begin(): expected the 2 segments that it was made for, received 1`;
    expect(await refusal(() => strategy.begin(made.segments.slice(1)))).toBe(`BAD_ARGUMENT: ${fewer}`);
    for (const k of [2, -1, 0.5, '0' as unknown as number]) {
      const message = expect.stringMatching(
        /^\w+: gather\(\): expected a segment from 0 to 1, received .*; run the segments/,
      );
      expect(() => strategy.gather(k, 'forward')).toThrow(expect.objectContaining({ code: 'BAD_ARGUMENT', message }));
    }
    strategy.dispose();
  });

  it('lets no optimizer work on parameters of which it trains parts', async () => {
    const made = model();
    const strategy = await make(made.segments);
    const [{ weight }] = made.layers as [Linear];
    const optimizer = () => new SGD({ params: [weight], lr: 1 });
    const masters = () =>
      new MasterWeights({ groups: [{ params: [weight] }], optimizer: (groups) => new SGD({ groups, lr: 1 }) });
    if (name === 'zero') {
      const expected =
        'expected parts of the parameters that zero() shards, received a whole one [4, 4]; take parallel.partsOf(';
      expect(optimizer).toThrow(`SGD: ${expected}`);
      expect(masters).toThrow(`MasterWeights: ${expected}`);
      new SGD({ params: [strategy.part(weight).tensor], lr: 1 }).dispose();
    } else optimizer().dispose();
    strategy.dispose();
    if (!isSharded) optimizer().dispose();
  });

  it('frees its memory when what is on its way has ended', async () => {
    const made = model();
    for (let i = 0; i < 2; i++) {
      const before = memory.stats().handles;
      const strategy = await make(made.segments);
      await strategy.begin(made.segments);
      micro(made.segments, strategy);
      const finished = strategy.finish();
      const begun = refusal(() => strategy.begin(made.segments));
      strategy.dispose();
      await finished;
      expect(await begun).toMatch(`${name}: begin(): expected a strategy that is in use`);
      made.layers.forEach((layer) => {
        layer.zeroGrad();
      });
      if (i > 0 && !isSharded) expect(memory.stats().handles).toBe(before);
      if (isSharded) break; // the model went with it
    }
  });
});

it('begin() that nobody awaited is over before anything is gathered', async () => {
  const made = model();
  const strategy = replicate(made.segments, await ranks());
  micro(made.segments, strategy); // a step that did not get to its finish()
  const begun = strategy.begin(made.segments);
  expect(() => micro(made.segments, strategy)).toThrow('replicate: gather(): expected begin() to be over');
  await begun;
  micro(made.segments, strategy);
  await strategy.finish();
  strategy.dispose();
});
