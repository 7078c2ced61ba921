// Which tensors may share memory in one collective, and tensors whose memory is not what they show: lazily conjugated and
// negated views, complex numbers, expanded views, zeros without memory. Right, or refused by name before the wire.
import { describe, expect, it } from 'vitest';
import { call, noGrad, ops, type Tensor, tensor, zeros } from '../../lib/core/index.js';
import { createGroup, type Group } from '../../lib/dist/index.js';
import { runRanks } from './ranks.js';

const SIZE = 4;
const RANK = 1;
const groups: [string, () => Promise<Group>, number, number][] = [
  ['one of four', () => createGroup({ rank: RANK, size: SIZE, backend: 'fake', name: 'g' }), RANK, SIZE],
  ['a group of one', () => createGroup({ rank: 0, size: 1, store: { inProcess: 'unused' }, name: 'g' }), 0, 1],
];

describe.each(groups)('%s: memory that is shared', (_, open, rank, size) => {
  const whole = zeros([2 * size]);
  const own = whole.narrow(0, 2 * rank, 2);
  const flat = zeros([2 * size + 2]);
  const [first, second] = [flat.narrow(0, 0, 2 * size), flat.narrow(0, 1, 2 * size)];
  const [x, y] = [flat.narrow(0, 0, 2), flat.narrow(0, 1, 2)];
  const rows = Array.from({ length: size }, (_, i) => (i === 0 ? 2 * size : 0));
  const others = (own: Tensor) => Array.from({ length: size }, (_, r) => (r === rank ? own : zeros([1])));

  it.each<[string, (g: Group) => unknown]>([
    ['all_gather: the own part', (g) => g.allGather(whole, own)],
    ['all_gather: a list of own parts', (g) => g.allGather([whole, zeros([size])], [own, zeros([1])])],
    ['all_gather: one input twice', (g) => g.allGather([zeros([2 * size]), zeros([2 * size])], [own, own])],
    ['uneven: the own output', (g) => g.allGatherUneven(others(own), own)],
    ['reduce_scatter: the own part', (g) => g.reduceScatter(own, whole)],
    ['reduce_scatter: one input twice', (g) => g.reduceScatter([zeros([2]), zeros([2])], [whole, whole])],
    ['gather: the own part', (g) => g.gather(whole, own, rank)],
    ['scatter: the own part', (g) => g.scatter(own, whole, rank)],
    ['all_to_all: neighbours in one storage', (g) => g.allToAll(zeros([4 * size]).narrow(0, 0, 2 * size), whole)],
    ['all_reduce: neighbours in one storage', (g) => g.allReduce([flat.narrow(0, 0, 1), flat.narrow(0, 1, 1)])],
    ['all_to_all: nothing', (g) => g.allToAll(zeros([0]), zeros([0]))],
  ])('%s is legal', async (_, use) => {
    const group = await open();
    (use(group) as { wait(): void }).wait();
    await group.destroy();
  });

  it.each<[string, (g: Group) => unknown, RegExp]>([
    ['all_reduce: twice', (g) => g.allReduce([whole, zeros([1]), whole]), /the tensors share memory, and each of them/],
    ['broadcast: views', (g) => g.broadcast([first, second]), /the tensors share memory/],
    ['all_gather: askew', (g) => g.allGather(first, flat.narrow(0, 2 * rank + 1, 2)), /only this rank's own part/],
    ['all_gather: outputs', (g) => g.allGather([first, second], [zeros([2]), zeros([2])]), /with another output/],
    ['all_gather: across', (g) => g.allGather([zeros([2 * size]), whole], [own, zeros([2])]), /shares memory with an/],
    ['uneven: askew', (g) => g.allGatherUneven(others(x), y), /only this rank's own part/],
    ['reduce_scatter: askew', (g) => g.reduceScatter(flat.narrow(0, 2 * rank + 1, 2), first), /only this rank's own/],
    ['gather: askew', (g) => g.gather(first, flat.narrow(0, 2 * rank + 1, 2), rank), /only this rank's own part/],
    ['scatter: askew', (g) => g.scatter(flat.narrow(0, 2 * rank + 1, 2), first, rank), /only this rank's own part/],
    [
      'all_to_all: in place',
      (g) => g.allToAll(whole, whole),
      /the output shares memory with the input; pass an output/,
    ],
    ['all_to_all: views', (g) => g.allToAll(first, second), /the output shares memory with the input/],
    [
      'all_to_all: rows',
      (g) => g.allToAll(whole, whole, { inputRows: rows, outputRows: rows }),
      /the output shares memory with the input/,
    ],
  ])('%s is refused', async (_, use, message) => {
    const group = await open();
    expect(() => use(group)).toThrow(expect.objectContaining({ code: 'BAD_ARGUMENT' }));
    expect(() => use(group)).toThrow(message);
    expect(() => use(group)).toThrow(/^\[rank \d\/\d\] \w+( \(.*\))? on group 'g': /);
    group.barrier().wait(); // nothing came of it
    await group.destroy();
  });
});

it("refuses another rank's part", async () => {
  const group = await groups[0]![1]();
  const whole = zeros([SIZE]);
  expect(() => group.allGather(whole, whole.narrow(0, RANK + 1, 1))).toThrow(/only this rank's own part/);
  expect(() => group.reduceScatter(whole.narrow(0, 0, 1), whole)).toThrow(/only this rank's own part/);
  await group.destroy();
});

describe.each(groups)('%s: memory that is not what it shows', (_, open, rank, size) => {
  const complex = tensor([1, 2]).to({ dtype: 'complex64' });
  const conjugated = complex.conj();
  const negated = call('aten::_neg_view', tensor([1, 2])) as Tensor;
  const imaginary = ops.imag(conjugated); // negated, and strided as well
  const expanded = zeros([1, 2]).expand([2, 2]);
  const nothing = call('aten::_efficientzerotensor', [2]) as Tensor;
  const uses: [string, (g: Group, t: Tensor) => unknown][] = [
    ['broadcast', (g, t) => g.broadcast(t)],
    ['all_gather, input', (g, t) => g.allGather(like(t, size), t)],
    ['all_gather, output', (g, t) => g.allGather(t, like(t).narrow(0, 0, 2 / Math.min(2, size)))],
    [
      'all_gather_uneven',
      (g, t) =>
        g.allGatherUneven(
          Array.from({ length: size }, () => like(t)),
          t,
        ),
    ],
    ['all_to_all, input', (g, t) => g.allToAll(like(t), t)],
    ['all_to_all, output', (g, t) => g.allToAll(t, like(t))],
    ['gather', (g, t) => g.gather(like(t, size), t, rank)],
    ['scatter', (g, t) => g.scatter(t, like(t, size), rank)],
    ...(size > 1
      ? ([
          ['send', (g, t) => g.send(t, 0)],
          ['receive', (g, t) => g.receive(t, 0)],
        ] as [string, (g: Group, t: Tensor) => unknown][])
      : []),
  ];
  const reductions: typeof uses = [
    ['all_reduce', (g, t) => g.allReduce(t)],
    ['reduce', (g, t) => g.reduce(t)],
    ['reduce_scatter, output', (g, t) => g.reduceScatter(t, like(t, size))],
    ['reduce_scatter, input', (g, t) => g.reduceScatter(like(t), t)],
  ];
  /** Plain zeros, `times` as long. */
  const like = (t: Tensor, times = 1) => zeros([t.shape[0]! * times, ...t.shape.slice(1)], { dtype: t.dtype });

  it.each(uses)('%s refuses a conjugated view', async (_, use) => {
    const group = await open();
    expect(() => use(group, conjugated)).toThrow(
      /lazily conjugated view, complex64 \(2\); pass ops\.resolve_conj\(t\)/,
    );
    await group.destroy();
  });

  it.each([...uses, ...reductions])('%s refuses a negated view and an expanded one', async (_, use) => {
    const group = await open();
    expect(() => use(group, negated)).toThrow(/lazily negated view, float32 \(2\); pass ops\.resolve_neg\(t\)/);
    expect(() => use(group, imaginary)).toThrow(/strided view, float32 \(2\); pass t\.contiguous\(\)/);
    expect(() => use(group, expanded)).toThrow(/strided view, float32 \(2, 2\); pass t\.contiguous\(\)/);
    await group.destroy();
  });

  it('takes what the advice gives', async () => {
    const group = await open();
    for (const t of [ops.resolve_conj(conjugated), ops.resolve_neg(negated), imaginary.contiguous()]) {
      noGrad(() => group.broadcast(t, rank).wait());
    }
    await group.destroy();
  });

  it.runIf(size > 1)('refuses zeros that have no memory', async () => {
    const group = await open();
    for (const use of [() => group.allReduce(nothing), () => group.broadcast(nothing), () => group.send(nothing, 0)]) {
      expect(use).toThrow(expect.objectContaining({ code: 'BAD_ARGUMENT' }));
      expect(use).toThrow(/this zero has none/);
    }
    await group.destroy();
  });

  it.runIf(size > 1).each(reductions)('%s refuses complex numbers, and says how to add them', async (_, use) => {
    const group = await open();
    expect(() => use(group, complex)).toThrow(/reduces float32, .*received complex64 .*pass ops\.view_as_real\(t\)/);
    group.allReduce(ops.view_as_real(complex)).wait();
    await group.destroy();
  });
});

it('complex numbers of every width arrive whole between processes, by every operation that moves data', async () => {
  const runs = await runRanks(
    2,
    `const { tensor, zeros, ops } = core;
     const group = await dist.init({ timeoutSeconds: 20 });
     const got = {};
     for (const dtype of ['complex32', 'complex64', 'complex128']) {
       const z = (n) => zeros([n], { dtype });
       // (2): re = 1 + rank, im = 10 + rank, and twice that
       const mine = () => ops.resolve_conj(core.call('aten::mul.Scalar', core.ones([2], { dtype: 'complex64' }), { re: 1 + rank, im: 10 + rank }).mul(tensor([1, 2]))).to({ dtype });
       const r = [];
       const note = (t) => r.push(ops.view_as_real(t).to({ dtype: 'float64' }).toArray().flat(3));
       const b = mine(); await group.broadcast(b, 1).done(); note(b);
       const g = z(4); await group.allGather(g, mine()).done(); note(g);
       const u = [z(2), z(2)]; await group.allGatherUneven(u, mine()).done(); note(u[0]); note(u[1]);
       const a = z(2); await group.allToAll(a, mine()).done(); note(a);
       const w = z(4); await group.gather(rank === 0 ? w : null, mine(), 0).done(); if (rank === 0) note(w);
       const s = z(1); await group.scatter(s, rank === 0 ? mine() : null, 0).done(); note(s);
       const p = z(2); await (rank === 0 ? group.send(mine(), 1) : group.receive(p, 0)).done(); if (rank === 1) note(p);
       const scalar = mine().select(0, 0).clone(); await group.broadcast(scalar, 0).done(); note(scalar);
       got[dtype] = r;
     }
     report(got);
     await group.destroy();`,
  );
  const of = (rank: number, k = 1) => [k * (1 + rank), k * (10 + rank)];
  const mine = (rank: number) => [...of(rank), ...of(rank, 2)];
  for (const [rank, run] of runs.entries()) {
    expect(run.err).toBe('');
    const expected = [
      mine(1),
      [...mine(0), ...mine(1)],
      mine(0),
      mine(1),
      [...of(0, rank + 1), ...of(1, rank + 1)],
      ...(rank === 0 ? [[...mine(0), ...mine(1)]] : []),
      of(0, rank + 1),
      ...(rank === 1 ? [mine(0)] : []),
      of(0),
    ];
    expect(run.reports[0]).toEqual({ complex32: expected, complex64: expected, complex128: expected });
  }
});

it('an all-to-all in place is refused on real ranks too, and the group goes on', async () => {
  const runs = await runRanks(
    2,
    `const group = await dist.init({ timeoutSeconds: 20 });
     const t = core.tensor([rank, rank]);
     const text = refusal(() => group.allToAll(t, t));
     await group.allToAll(t, t.clone()).done();
     report({ text, t: t.toArray() });
     await group.destroy();`,
  );
  for (const [rank, run] of runs.entries()) {
    const text = `BAD_ARGUMENT: [rank ${rank}/2] all_to_all on group 'world': the output shares memory with the input; pass an output of its own`;
    expect(run.reports).toEqual([{ text, t: [0, 1] }]);
  }
});
