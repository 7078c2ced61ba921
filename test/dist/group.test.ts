// Groups between real processes over Gloo: every operation, wrong use, dead peers, late peers; and the group of one.
import { describe, expect, it } from 'vitest';
import { manualSeed, tensor, zeros } from '../../lib/core/index.js';
import { createGroup, init } from '../../lib/dist/index.js';
import { freePort, runRanks } from './ranks.js';

describe('a group of one', () => {
  it('completes every operation at once, without an engine', async () => {
    manualSeed(1);
    const group = await createGroup({ rank: 0, size: 1, store: { inProcess: 'unused' } });
    expect([group.rank, group.size, group.backend, group.name]).toEqual([0, 1, 'none', 'world']);
    const t = tensor([1, 2, 3]);
    for (const op of ['sum', 'avg', 'min', 'max', 'product'] as const) group.allReduce(t, op).wait();
    await group.broadcast([t]).done();
    expect(t.toArray()).toEqual([1, 2, 3]);
    const out = zeros([3]);
    const work = group.allGather(out, t);
    expect(work.isCompleted).toBe(true);
    expect(out.toArray()).toEqual([1, 2, 3]);
    group.reduceScatter(out, tensor([4, 5, 6])).wait();
    expect(out.toArray()).toEqual([4, 5, 6]);
    await group.barrier().done();
    expect(await group.broadcastObject({ a: 1 })).toEqual({ a: 1 });
    expect(await group.allGatherObject('x')).toEqual(['x']);
    expect(await group.gatherObject('x')).toEqual(['x']);
    expect(await group.sum(2.5)).toBe(2.5);
    await group.destroy();
    await group.destroy();
    expect(group.isDestroyed).toBe(true);
    expect(() => group.barrier()).toThrow("[rank 0/1] barrier on group 'world': the group is destroyed");
  });

  it('refuses wrong use as a larger group does', async () => {
    const group = await createGroup({ rank: 0, size: 1, store: { inProcess: 'unused' }, name: 'solo' });
    const t = zeros([2, 3]);
    const wrong: [() => unknown, RegExp][] = [
      [() => group.allReduce([]), /all_reduce on group 'solo': expected at least one tensor/],
      [() => group.allReduce(5 as never), /expected Tensors as tensors, received 5/],
      [() => group.allReduce(t.transpose(0, 1)), /contiguous.*float32 \(3, 2\)/],
      [() => group.allReduce(t, 'mean' as never), /op to be one of sum, avg, min, max, product, received "mean"/],
      [() => group.allReduce(zeros([1], { dtype: 'int64' }), 'avg'), /'avg' needs floating-point tensors/],
      [() => group.allReduce(zeros([1], { dtype: 'bool' })), /'sum' has no meaning for bool/],
      [() => group.broadcast(t, 1), /root to be a rank from 0 to 0, received 1/],
      [() => group.broadcast(t, -1), /received -1/],
      [
        () => group.allGather(zeros([3, 3]), t),
        /for a shard of float32 \(2, 3\).*whole of shape \(2, 3\).*received float32 \(3, 3\)/,
      ],
      [() => group.allGather(zeros([2, 3], { dtype: 'float64' }), t), /same dtype/],
      [() => group.reduceScatter(t, zeros([4, 3])), /reduce_scatter/],
      [() => group.allReduce(zeros([1], { requiresGrad: true }).mul(2)), /outside the graph/],
    ];
    for (const [use, message] of wrong) expect(use).toThrow(message);
    await expect(group.broadcastObject(() => 1)).resolves.toBeTypeOf('function');
  });

  it('is what init gives a process that nobody launched, and always the same one', async () => {
    const group = await init();
    expect(await init()).toBe(group);
    await expect(init({ timeoutSeconds: 5 })).rejects.toThrow(/the world group exists.*destroy it first/);
    await group.destroy();
    const next = await init({ timeoutSeconds: 5 });
    expect(next).not.toBe(group);
    await next.destroy();
  });

  it.each([
    [{ rank: 0, size: 0 }, /size to be 1 or more, received 0/],
    [{ rank: 2, size: 2 }, /rank to be from 0 to 1, received 2/],
    [{ rank: 0, size: 2, timeoutSeconds: 0 }, /timeoutSeconds to be a positive number, received 0/],
    [{ rank: 0, size: 2, timeoutSeconds: Number.NaN }, /timeoutSeconds/],
    [
      { rank: 0, size: 2, backend: 'mpi' as never },
      /backend to be 'gloo', 'shm' \(on Linux\), 'nccl' or 'fake', received "mpi"/,
    ],
  ])('refuses %j', async (options, message) => {
    await expect(createGroup({ store: { inProcess: 'x' }, ...options })).rejects.toMatchObject({
      code: 'BAD_ARGUMENT',
      message: expect.stringMatching(message),
    });
  });

  it.each([1, 2])('says that nccl is not here, for a world of %i', async (size) => {
    await expect(createGroup({ rank: 0, size, backend: 'nccl', store: { inProcess: 'x' } })).rejects.toMatchObject({
      code: 'NO_CUDA',
      message: expect.stringMatching(/^\[rank 0\/\d\] init on group 'world': backend 'nccl' is not here: /),
    });
  });

  it('gives up on peers that do not come, within its timeout', async () => {
    const started = Date.now();
    await expect(
      createGroup({ rank: 0, size: 2, store: { inProcess: 'alone' }, timeoutSeconds: 1 }),
    ).rejects.toMatchObject({
      code: 'BAD_LAUNCH',
      message: expect.stringContaining('did not find each other within 1 s'),
    });
    const port = await freePort();
    const store = { host: '127.0.0.1', port };
    await expect(createGroup({ rank: 1, size: 2, store, timeoutSeconds: 1 })).rejects.toMatchObject({
      code: 'BAD_LAUNCH',
      message: expect.stringMatching(
        /^\[rank 1\/2\] init on group 'world': could not reach the store on 127.0.0.1:\d+ within 1 s/,
      ),
    });
    expect(Date.now() - started).toBeLessThan(15_000);
  });
});

describe('three processes', () => {
  it('reduce, broadcast, gather, scatter, and exchange objects', async () => {
    const runs = await runRanks(
      3,
      `const { tensor, zeros } = core;
       const group = await dist.init({ timeoutSeconds: 20 });
       const r = {};
       for (const op of ['sum', 'avg', 'min', 'max', 'product']) {
         const t = tensor([rank + 1, 2]);
         group.allReduce(t, op).wait();
         r[op] = t.toArray();
       }
       const many = [tensor([[rank, 1]]), tensor([rank * 10]), tensor(BigInt64Array.of(BigInt(rank)))];
       await group.allReduce(many).done();
       r.many = many.map((t) => t.toArray());
       const same = [tensor([rank]), tensor([1, rank])];
       group.allReduce(same).wait();
       r.same = same.map((t) => t.toArray());
       const b = [tensor([rank]), tensor([rank * 2], { dtype: 'bfloat16' }), tensor([rank === 2])];
       await group.broadcast(b, 2).done();
       r.broadcast = b.map((t) => t.toArray());
       const gathered = zeros([6, 2]);
       group.allGather(gathered, tensor([[rank, 0], [rank, 1]])).wait();
       r.gathered = gathered.toArray();
       const whole = tensor([[1 + rank], [2], [3]]);
       const part = zeros([1, 1]);
       await group.reduceScatter(part, whole).done();
       r.part = part.toArray();
       r.whole = whole.toArray();
       await group.barrier().done();
       r.object = await group.broadcastObject({ from: rank, map: new Map([[1, 'ü']]) }, 1);
       r.object.map = [...r.object.map];
       r.all = await group.allGatherObject('x'.repeat(rank * 3));
       r.some = await group.gatherObject(rank, 2);
       r.total = await group.sum(rank + 0.5);
       r.unserializable = await failure(() => group.allGatherObject(() => 1));
       r.dtypes = ['float64', 'float16', 'int8', 'uint8', 'int32', 'int64'].map((dtype) => {
         const t = tensor([rank + 1], { dtype });
         group.allReduce(t).wait();
         return t.itemSync();
       });
       r.refused = [
         refusal(() => group.allReduce(zeros([2], { dtype: 'int16' }))),
         refusal(() => group.broadcast(zeros([2]), 3)),
       ];
       await group.destroy();
       r.destroyed = refusal(() => group.barrier());
       const again = await dist.init({ timeoutSeconds: 20 });
       r.again = await again.sum(1);
       await again.destroy();
       r.inFlight = core.call('shardloop::works_in_flight');
       report(r);`,
    );
    for (const [rank, run] of runs.entries()) {
      expect(run.err).toBe('');
      expect(run.code).toBe(0);
      expect(run.reports[0]).toEqual({
        sum: [6, 6],
        avg: [2, 2],
        min: [1, 2],
        max: [3, 2],
        product: [6, 8],
        many: [[[3, 3]], [30], [3]],
        same: [[3], [3, 3]],
        broadcast: [[2], [4], [true]],
        gathered: [
          [0, 0],
          [0, 1],
          [1, 0],
          [1, 1],
          [2, 0],
          [2, 1],
        ],
        part: [[[6], [6], [9]][rank]],
        whole: [[1 + rank], [2], [3]],
        object: { from: 1, map: [[1, 'ü']] },
        all: ['', 'xxx', 'xxxxxx'],
        some: rank === 2 ? [0, 1, 2] : null,
        total: 4.5,
        unserializable: expect.stringContaining(
          `[rank ${rank}/3] allGatherObject on group 'world': expected a value that can be`,
        ),
        dtypes: [6, 6, 6, 6, 6, 6],
        refused: [
          expect.stringMatching(/^BAD_ARGUMENT: \[rank .* backend '(gloo|shm)' reduces .*int16 \(2\)/),
          expect.stringContaining('root to be a rank from 0 to 2, received 3'),
        ],
        destroyed: expect.stringContaining('the group is destroyed'),
        again: 3,
        inFlight: 0,
      });
    }
  });
});

describe('two processes', () => {
  it('keep the event loop turning while a collective waits for a slow peer', async () => {
    const [first] = await runRanks(
      2,
      `const group = await dist.init({ timeoutSeconds: 20 });
       const t = core.zeros([4]);
       await group.barrier().done();
       if (rank === 1) await new Promise((resolve) => setTimeout(resolve, 600));
       let turns = 0;
       const timer = setInterval(() => turns++, 5);
       const works = Array.from({ length: 6 }, () => group.allReduce(core.zeros([4])));
       const files = await Promise.all(Array.from({ length: 8 }, () => import('node:fs/promises').then((fs) => fs.stat('/'))));
       const before = works[0].isCompleted;
       await Promise.all(works.map((work) => work.done()));
       clearInterval(timer);
       report({ turns, before, after: works.every((work) => work.isCompleted), files: files.length });`,
    );
    expect(first!.err).toBe('');
    expect(first!.reports[0]).toMatchObject({ before: false, after: true, files: 8 });
    expect(first!.reports[0]!.turns).toBeGreaterThan(20);
  });

  it('name the operation when a peer dies, soon, by wait and by promise, and refuse the group afterwards', async () => {
    const [first] = await runRanks(
      2,
      `const group = await dist.init({ timeoutSeconds: 30 });
       await group.barrier().done();
       if (rank === 1) process.kill(process.pid, 'SIGKILL');
       const started = Date.now();
       const asynchronous = await failure(() => group.allReduce([core.zeros([3, 4]), core.zeros([5])]).done());
       report({ asynchronous, again: refusal(() => group.barrier()), sum: await failure(() => group.sum(1)), ms: Date.now() - started });
       await group.destroy();`,
    );
    expect(first!.code).toBe(0);
    expect(first!.reports[0]).toMatchObject({
      asynchronous: expect.stringMatching(
        /^COLLECTIVE_FAILED: \[rank 0\/2\] all_reduce \(sum\) #2 on group 'world' of float32 \(3, 4\) and 1 more, 17 elements failed: .*\. Arrived: rank 0\. Rank 1 does not answer \(dead or stopped\); .*A peer died or left the group/,
      ),
      again: expect.stringMatching(
        /^COLLECTIVE_FAILED: \[rank 0\/2\] barrier on group 'world': the group failed earlier/,
      ),
      sum: expect.stringContaining('failed earlier'),
    });
    expect(first!.reports[0]!.ms).toBeLessThan(5000);
  });

  it('name the operation when a peer does not arrive within the timeout', async () => {
    const [first] = await runRanks(
      2,
      `const group = await dist.init({ timeoutSeconds: 2 });
       await group.barrier().done();
       if (rank === 1) await new Promise((resolve) => setTimeout(resolve, 6000));
       else {
         const started = Date.now();
         report({ text: refusal(() => group.allReduce(core.zeros([7]), 'max').wait()), ms: Date.now() - started });
       }
       await group.destroy();`,
    );
    expect(first!.reports[0]!.text).toMatch(
      /COLLECTIVE_FAILED: \[rank 0\/2\] all_reduce \(max\) #2 .*float32 \(7\) failed: Timed out .*Arrived: rank 0\. Rank 1 is alive and has not arrived; its last operation was barrier #1, done/,
    );
    expect(first!.reports[0]!.ms).toBeGreaterThan(1500);
    expect(first!.reports[0]!.ms).toBeLessThan(4000);
  });

  it('end soon when one gives up with operations in flight', async () => {
    const started = Date.now();
    const runs = await runRanks(
      2,
      `const group = await dist.init({ timeoutSeconds: 40 });
       await group.barrier().done();
       if (rank === 1) {
         group.allReduce(core.zeros([3]));
         group.allReduce(core.zeros([1000000]));
         await group.destroy();
         process.exitCode = 5;
       } else {
         await new Promise((resolve) => setTimeout(resolve, 1500));
         report({ text: await failure(() => group.allReduce(core.zeros([2])).done()) });
       }`,
    );
    expect(runs.map((run) => run.code)).toEqual([0, 5]);
    expect(runs[0]!.reports[0]!.text).toContain('Rank 1 called all_reduce (sum) of float32 (3) as #2');
    expect(Date.now() - started).toBeLessThan(15_000);
  });

  it('leave no unhandled rejection and no work behind when nobody waits', async () => {
    const runs = await runRanks(
      2,
      `const group = await dist.init({ timeoutSeconds: 20 });
       for (let i = 0; i < 50; i++) group.allReduce(core.zeros([4]));
       await group.barrier().done();
       for (let i = 0; i < 20 && core.call('shardloop::works_in_flight') > 0; i++) {
         globalThis.gc();
         await new Promise((resolve) => setTimeout(resolve, 20));
       }
       report({ left: core.call('shardloop::works_in_flight') });
       await group.destroy();`,
      { NODE_OPTIONS: '--expose-gc' },
    );
    expect(runs.map((run) => run.reports[0])).toEqual([{ left: 0 }, { left: 0 }]);
  });

  it.each([
    ['the interface that GLOO_SOCKET_IFNAME names', { GLOO_SOCKET_IFNAME: 'lo' }, '2'],
    ['the host name where ranks may be on several hosts', { LOCAL_RANK: '0', LOCAL_WORLD_SIZE: '1' }, '2'],
    ['no interface that is not there', { GLOO_SOCKET_IFNAME: 'nonesuch0' }, 'BAD_LAUNCH: [rank 0/2] init on group'],
  ])('talk over %s', async (_, env, expected) => {
    const [first] = await runRanks(
      2,
      `const group = await dist.init({ timeoutSeconds: 4 }).catch((e) => ({ sum: () => e.code + ': ' + e.message, destroy() {} }));
       report({ total: String(await group.sum(1)) });
       await group.destroy();`,
      env,
    );
    expect(first!.reports[0]!.total).toContain(expected);
  });
});
