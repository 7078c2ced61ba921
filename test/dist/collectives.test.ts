// The collectives by themselves: what a group of one does, what is refused before the wire and how, what may share memory,
// and what is counted. Whether the results are right is for properties.test.ts and test/oracle/collectives.test.ts.
import { describe, expect, it } from 'vitest';
import { call, type Tensor, tensor, zeros } from '../../lib/core/index.js';
import { busFactor, type Collective, createGroup, type Group } from '../../lib/dist/index.js';
import { runRanks } from './ranks.js';

const alone = () => createGroup({ rank: 0, size: 1, store: { inProcess: 'unused' }, name: 'solo' });
/** Rank 1 of 4; the others do not exist. */
const four = (name = 'four') => createGroup({ rank: 1, size: 4, backend: 'fake', name });

describe('a group of one', () => {
  it('completes the later operations at once, data included', async () => {
    const group = await alone();
    const t = tensor([[1, 2]]);
    for (const op of ['sum', 'avg', 'min', 'max', 'product'] as const) group.reduce(t, 0, op).wait();
    expect(t.toArray()).toEqual([[1, 2]]);
    const into = (use: (out: Tensor) => { wait(): void }) => {
      const out = zeros([1, 2]);
      use(out).wait();
      return out.toArray();
    };
    expect(into((out) => group.allGather([out], [t]))).toEqual([[1, 2]]);
    expect(into((out) => group.allGatherUneven([out], t))).toEqual([[1, 2]]);
    expect(into((out) => group.reduceScatter([out], [t], 'avg'))).toEqual([[1, 2]]);
    expect(into((out) => group.allToAll(out, t))).toEqual([[1, 2]]);
    expect(into((out) => group.allToAll(out, t, { outputRows: [1], inputRows: [1] }))).toEqual([[1, 2]]);
    expect(into((out) => group.gather(out, t))).toEqual([[1, 2]]);
    expect(into((out) => group.scatter(out, t))).toEqual([[1, 2]]);
    expect(() => group.send(t, 0)).toThrow(
      /^\[rank 0\/1\] send on group 'solo': expected to to be another rank than 0/,
    );
    expect(() => group.receive(t, 0)).toThrow(/receive on group 'solo'/);
    expect(group.traffic.get('all_to_all')).toEqual({ count: 2, bytes: 16, busBytes: 0 });
    expect(group.ranks).toEqual([0]);
    const parameter = zeros([1, 2], { requiresGrad: true });
    group.allGather(parameter, t).wait();
    expect(parameter.toArray()).toEqual([[1, 2]]);
    await group.destroy();
    await expect(group.sum(1)).rejects.toThrow('the group is destroyed');
    await expect(group.broadcastObject(1)).rejects.toThrow('the group is destroyed');
  });
});

describe('wrong use', () => {
  const t = zeros([2, 3]);
  const wide = zeros([8, 3]);
  const half = zeros([2, 3], { dtype: 'float16' });
  const strided = zeros([3, 2]).transpose(0, 1);
  const sparse = call('aten::to_sparse', t) as Tensor;
  const conjugate = zeros([2], { dtype: 'complex64' }).conj();
  const attached = zeros([2, 3], { requiresGrad: true }).mul(2);
  const rows = (outputRows: unknown, inputRows: unknown) => ({ outputRows, inputRows }) as never;

  it.each<[string, (g: Group) => unknown, RegExp]>([
    [
      'reduce: root',
      (g) => g.reduce(t, 4),
      /reduce on group 'four': expected root to be a rank from 0 to 3, received 4/,
    ],
    ['reduce: op', (g) => g.reduce(t, 0, 'xor' as never), /op to be one of sum.*received "xor"/],
    ['reduce: a list', (g) => g.reduce([t] as never), /expected a Tensor as the tensor, received an array of 1/],
    ['reduce: dtype', (g) => g.reduce(zeros([1], { dtype: 'int16' })), /'fake' reduces float32, .*int16 \(1\)/],
    ['reduce: view', (g) => g.reduce(strided), /contiguous.*strided view, float32 \(2, 3\)/],
    ['reduce: sparse', (g) => g.reduce(sparse), /expected a dense tensor, received float32 \(2, 3\), sparse/],
    ['all_gather: lists', (g) => g.allGather([wide, wide], [t]), /as many inputs as outputs, received 2 and 1/],
    [
      'all_gather: the second pair',
      (g) => g.allGather([wide, t], [t, t]),
      /whole of shape \(8, 3\).*received float32 \(2, 3\)/,
    ],
    ['all_gather: dtype', (g) => g.allGather(wide, half), /for a shard of float16 \(2, 3\).*the same dtype/],
    ['all_gather: view', (g) => g.allGather(wide, strided), /strided view/],
    [
      'all_gather: conjugated',
      (g) => g.allGather(zeros([8], { dtype: 'complex64' }), conjugate),
      /all_gather on group.*lazily conjugated/,
    ],
    ['uneven: too few', (g) => g.allGatherUneven([t, t], t), /expected 4 outputs, one for each rank, received 2/],
    [
      'uneven: own shape',
      (g) => g.allGatherUneven([t, zeros([1, 3]), t, t], t),
      /the same shape in outputs\[1\].*received float32 \(1, 3\)/,
    ],
    [
      'uneven: dtype',
      (g) => g.allGatherUneven([half, t, t, t], t),
      /its dtype and device in all outputs, received float16/,
    ],
    ['uneven: a list as input', (g) => g.allGatherUneven([t, t, t, t], [t] as never), /expected a Tensor as the input/],
    ['reduce_scatter: lists', (g) => g.reduceScatter([t], [wide, wide]), /as many inputs as outputs, received 2 and 1/],
    ['reduce_scatter: shape', (g) => g.reduceScatter(t, zeros([7, 3])), /whole of shape \(8, 3\).*float32 \(7, 3\)/],
    ['reduce_scatter: op', (g) => g.reduceScatter(t, wide, 'bor' as never), /received "bor"/],
    [
      'reduce_scatter: whole mean',
      (g) => g.reduceScatter(zeros([1], { dtype: 'int32' }), zeros([4], { dtype: 'int32' }), 'avg'),
      /'avg' needs floating-point/,
    ],
    [
      'all_to_all: dtype',
      (g) => g.allToAll(zeros([8, 3], { dtype: 'float64' }), wide),
      /output and input of one dtype and device/,
    ],
    [
      'all_to_all: behind the rows',
      (g) => g.allToAll(zeros([8, 2]), wide),
      /rows along axis 0 and alike behind it, .*\(8, 2\).*\(8, 3\)/,
    ],
    ['all_to_all: no rows', (g) => g.allToAll(zeros([]), zeros([])), /rows along axis 0/],
    [
      'all_to_all: not divisible',
      (g) => g.allToAll(zeros([6]), zeros([6])),
      /divisible by 4.*give \{ outputRows, inputRows \}/,
    ],
    ['all_to_all: unlike', (g) => g.allToAll(zeros([4]), zeros([8])), /of the same rows/],
    [
      'all_to_all: sum',
      (g) => g.allToAll(t, t, rows([1, 1, 0, 0], [1, 0, 0, 0])),
      /inputRows to be 4 whole numbers that add up to 2, received \[1, 0, 0, 0\]/,
    ],
    ['all_to_all: too few', (g) => g.allToAll(t, t, rows([2], [2, 0, 0, 0])), /outputRows to be 4 whole numbers/],
    ['all_to_all: negative', (g) => g.allToAll(t, t, rows([3, -1, 0, 0], [2, 0, 0, 0])), /outputRows to be 4 whole/],
    ['all_to_all: one side', (g) => g.allToAll(t, t, rows([2, 0, 0, 0], undefined)), /inputRows.*received undefined/],
    [
      'gather: output elsewhere',
      (g) => g.gather(wide, t, 0),
      /expected null as the output on a rank that is not root 0/,
    ],
    ['gather: no output', (g) => g.gather(null, t, 1), /expected a Tensor as the output on root 1, received null/],
    ['gather: shape', (g) => g.gather(t, t, 1), /whole of shape \(8, 3\)/],
    ['gather: root', (g) => g.gather(null, t, -1), /root to be a rank from 0 to 3, received -1/],
    ['scatter: input elsewhere', (g) => g.scatter(t, wide, 3), /expected null as the input/],
    ['scatter: no input', (g) => g.scatter(t, null, 1), /expected a Tensor as the input on root 1, received null/],
    ['scatter: shape', (g) => g.scatter(t, zeros([8, 4]), 1), /received float32 \(8, 4\)/],
    [
      'send: itself',
      (g) => g.send(t, 1),
      /send on group 'four': expected to to be another rank than 1 from 0 to 3, received 1/,
    ],
    ['send: rank', (g) => g.send(t, 4), /received 4/],
    ['send: tag', (g) => g.send(t, 0, -1), /tag to be a whole number from 0 to 2\^30, received -1/],
    ['send: tag', (g) => g.send(t, 0, 1.5), /received 1\.5/],
    ['send: a list', (g) => g.send([t] as never, 0), /expected a Tensor as the tensor/],
    ['send: a graph', (g) => g.send(attached, 0), /outside the graph.*t\.detach\(\)/],
    ['receive: rank', (g) => g.receive(t, 1.5), /expected from to be another rank than 1 .*received 1\.5/],
    ['receive: tag', (g) => g.receive(t, 0, 2 ** 31), /tag/],
    ['receive: view', (g) => g.receive(strided, 0), /strided view/],
  ])('%s', async (_, use, message) => {
    const group = await four();
    expect(() => use(group)).toThrow(message);
    expect(() => use(group)).toThrow(expect.objectContaining({ code: 'BAD_ARGUMENT' }));
    group.barrier().wait(); // nothing came of it
    await group.destroy();
    for (const later of [() => group.reduce(t), () => group.allToAll(wide, wide), () => group.send(t, 0)]) {
      expect(later).toThrow(/^\[rank 1\/4\] \w+ on group 'four': the group is destroyed; make a new one/);
    }
  });

  it('refuses disposed tensors and roots of objects', async () => {
    const group = await four();
    const gone = zeros([2]);
    gone.dispose();
    expect(() => group.reduce(gone)).toThrow(expect.objectContaining({ code: 'TENSOR_DISPOSED' }));
    await expect(group.broadcastObject(1, 7)).rejects.toThrow(/broadcastObject on group 'four': expected root to be/);
    await expect(group.gatherObject(1, 7)).rejects.toThrow(/gatherObject on group 'four': expected root to be/);
    await group.destroy();
  });

  it('refuses devices that a real group does not carry, and goes on', async () => {
    const runs = await runRanks(
      2,
      `const group = await dist.init({ timeoutSeconds: 20 });
       const meta = core.zeros([2], { device: 'meta' });
       const conjugate = core.zeros([2], { dtype: 'complex64' }).conj();
       report({ texts: [() => group.reduce(meta), () => group.send(meta, 1 - rank), () => group.broadcast(conjugate)].map(refusal), sum: await group.sum(1) });
       await group.destroy();`,
    );
    for (const [rank, run] of runs.entries()) {
      expect(run.reports[0]).toEqual({
        texts: [
          `BAD_ARGUMENT: [rank ${rank}/2] reduce on group 'world': expected a tensor on cpu or cuda, received float32 (2) on meta`,
          `BAD_ARGUMENT: [rank ${rank}/2] send on group 'world': expected a tensor on cpu or cuda, received float32 (2) on meta`,
          `BAD_ARGUMENT: [rank ${rank}/2] broadcast on group 'world': expected memory as it is, received a lazily conjugated view, complex64 (2); pass ops.resolve_conj(t)`,
        ],
        sum: 2,
      });
    }
  });
});

describe('three processes', () => {
  it('work in place, on slices, on parameters, on lists, and count what they send', async () => {
    const runs = await runRanks(
      3,
      `const { tensor, zeros } = core;
       const group = await dist.init({ timeoutSeconds: 30 });
       const r = {};
       // The output holds the input as this rank's own slice.
       const whole = zeros([6]);
       const own = whole.narrow(0, 2 * rank, 2);
       own.fill_(rank + 1);
       await group.allGather(whole, own).done();
       r.gatherInPlace = whole.toArray();
       const scattered = tensor([1, 2, 3, 4, 5, 6].map((x) => x * (rank + 1)));
       await group.reduceScatter(scattered.narrow(0, 2 * rank, 2), scattered).done();
       r.scatterInPlace = scattered.narrow(0, 2 * rank, 2).toArray();
       const uneven = zeros([6]);
       const parts = [uneven.narrow(0, 0, 1), uneven.narrow(0, 1, 2), uneven.narrow(0, 3, 3)];
       parts[rank].fill_(rank + 1);
       await group.allGatherUneven(parts, parts[rank]).done();
       r.unevenInPlace = uneven.toArray();
       const rooted = tensor([rank, rank]);
       await group.reduce(rooted, 2, 'avg').done();
       r.reduced = rooted.toArray();
       // Parameters are written to as they are.
       const leaf = (shape) => zeros(shape, { requiresGrad: true });
       const parameters = [leaf([3]), leaf([1]), leaf([3]), leaf([3]), leaf([1]), leaf([1])];
       await group.allGather(parameters[0], tensor([rank])).done();
       await group.reduceScatter(parameters[1], tensor([1, 2, 3])).done();
       await group.allToAll(parameters[2], tensor([rank, rank, rank])).done();
       await group.allReduce(parameters[3]).done();
       await group.scatter(parameters[4], rank === 1 ? tensor([7, 8, 9]) : null, 1).done();
       if (rank === 0) await group.send(tensor([5]), 1, 3).done();
       if (rank === 1) await group.receive(parameters[5], 0, 3).done();
       r.parameters = parameters.map((t) => [t.toArray(), t.requiresGrad, t.isLeaf]);
       // Tags keep messages apart, whatever the order.
       if (rank === 0) await Promise.all([group.send(tensor([1]), 2, 1).done(), group.send(tensor([2]), 2, 2).done()]);
       const [a, b] = [zeros([1]), zeros([1])];
       if (rank === 2) { await group.receive(b, 0, 2).done(); await group.receive(a, 0, 1).done(); }
       r.tags = [a.itemSync(), b.itemSync()];
       const lists = [[zeros([3]), zeros([6, 1], { dtype: 'int64' })], [tensor([rank]), tensor([[rank], [9]], { dtype: 'int64' })]];
       await group.allGather(...lists).done();
       r.lists = lists[0].map((t) => t.toArray().flat());
       const sums = [zeros([1]), zeros([1, 2])];
       await group.reduceScatter(sums, [tensor([1, 2, 3]), tensor([[1, 1], [2, 2], [3, 3]])], 'avg').done();
       r.sums = sums.map((t) => t.toArray().flat());
       // Nothing is something.
       const none = zeros([0, 2]);
       for (const work of [group.allReduce(none), group.broadcast(none), group.allGather(none, none), group.allToAll(none, none), group.reduce(none)]) await work.done();
       r.traffic = [...group.traffic];
       report(r);
       await group.destroy();`,
    );
    for (const [rank, run] of runs.entries()) {
      expect(run.err).toBe('');
      const received = rank === 1 ? [5] : [0];
      expect(run.reports[0]).toEqual({
        gatherInPlace: [1, 1, 2, 2, 3, 3],
        scatterInPlace: [6 * (2 * rank + 1), 6 * (2 * rank + 2)],
        unevenInPlace: [1, 2, 2, 3, 3, 3],
        reduced: rank === 2 ? [1, 1] : [rank, rank],
        parameters: [[0, 1, 2], [3 * (rank + 1)], [0, 1, 2], [0, 0, 0], [7 + rank], received].map((x) => [
          x,
          true,
          true,
        ]),
        tags: rank === 2 ? [1, 2] : [0, 0],
        lists: [
          [0, 1, 2],
          [0, 9, 1, 9, 2, 9],
        ],
        sums: [[rank + 1], [rank + 1, rank + 1]],
        traffic: expect.arrayContaining([
          ['all_gather', { count: 4, bytes: 24 + 12 + 12 + 48, busBytes: (96 * 2) / 3 }],
          ['reduce_scatter', { count: 3, bytes: 24 + 12 + 12 + 24, busBytes: expect.closeTo(48) }],
          ['all_gather_uneven', { count: 1, bytes: 24, busBytes: 16 }],
          ['reduce', { count: 2, bytes: 8, busBytes: 8 }],
          ['all_to_all', { count: 2, bytes: 12, busBytes: 8 }],
          ['all_reduce', { count: 2, bytes: 12, busBytes: 16 }],
          ['scatter', { count: 1, bytes: 12, busBytes: 8 }],
          ['broadcast', { count: 1, bytes: 0, busBytes: 0 }],
          ...(rank === 0 ? [['send', { count: 3, bytes: 12, busBytes: 12 }]] : []),
          ...(rank === 1 ? [['receive', { count: 1, bytes: 4, busBytes: 4 }]] : []),
          ...(rank === 2 ? [['receive', { count: 2, bytes: 8, busBytes: 8 }]] : []),
        ]),
      });
    }
  });
});

describe('busFactor', () => {
  it.each<[Collective, number, number]>([
    ['all_reduce', 4, 1.5],
    ['all_gather', 4, 0.75],
    ['all_gather_uneven', 2, 0.5],
    ['reduce_scatter', 8, 7 / 8],
    ['all_to_all', 4, 0.75],
    ['gather', 4, 0.75],
    ['scatter', 4, 0.75],
    ['broadcast', 4, 1],
    ['reduce', 2, 1],
    ['send', 2, 1],
    ['receive', 2, 1],
    ['barrier', 4, 0],
    ['all_reduce', 1, 0],
    ['broadcast', 1, 0],
  ])('of %s on %i ranks is %f, as nccl-tests have it', (operation, ranks, factor) => {
    expect(busFactor(operation, ranks)).toBeCloseTo(factor, 12);
  });
});
