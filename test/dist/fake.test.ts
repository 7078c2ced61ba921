// The backend 'fake': groups of any size in one process. It completes behind the back of wait(), as streams do, so this is
// also where the path that NCCL takes (polling, deadline, abort) runs without a GPU.
import { describe, expect, it } from 'vitest';
import { tensor, zeros } from '../../lib/core/index.js';
import { createGroup } from '../../lib/dist/index.js';

const open = (rank: number, size: number, device = '', timeoutSeconds = 20) =>
  createGroup({ rank, size, backend: 'fake', device, timeoutSeconds, name: 'plan' });

describe('the fake backend', () => {
  it('is a world of 1024 whose other ranks do as this one does', async () => {
    const group = await open(1000, 1024);
    expect([group.rank, group.size, group.backend]).toEqual([1000, 1024, 'fake']);
    const mine = tensor([1, 2]);
    const whole = zeros([2048]);
    await group.allReduce(mine).done();
    await group.reduce(mine, 3).done();
    await group.broadcast(mine, 3).done();
    expect(mine.toArray()).toEqual([1, 2]);
    await group.allGather(whole, mine).done();
    expect([whole.sum().itemSync(), whole.narrow(0, 2046, 2).toArray()]).toEqual([3072, [1, 2]]);
    whole.narrow(0, 2000, 2).fill_(7);
    const part = zeros([2]);
    await group.reduceScatter(part, whole).done();
    expect(part.toArray()).toEqual([7, 7]);
    const out = zeros([2048]);
    await group.allToAll(out, whole).done();
    expect(out.equal(whole)).toBe(true);
    await group.gather(null, mine, 0).done();
    await group.gather(out, mine, 1000).done();
    expect(out.sum().itemSync()).toBe(3072);
    await group.scatter(part, null, 0).done();
    await group.scatter(part, whole, 1000).done();
    expect(part.toArray()).toEqual([7, 7]);
    await group.send(mine, 0).done();
    await group.receive(mine, 1023).done();
    await group.barrier().done();
    const t = (count: number, bytes: number, factor: number) => ({ count, bytes, busBytes: bytes * factor });
    const each = 1023 / 1024;
    expect(Object.fromEntries(group.traffic)).toEqual({
      all_reduce: t(1, 8, 2 * each),
      reduce: t(1, 8, 1),
      broadcast: t(1, 8, 1),
      all_gather: t(1, 8192, each),
      reduce_scatter: t(1, 8192, each),
      all_to_all: t(1, 8192, each),
      gather: t(2, 2 * 8192, each),
      scatter: t(2, 2 * 8192, each),
      send: t(1, 8, 1),
      receive: t(1, 8, 1),
      barrier: t(1, 0, 0),
    });
    await group.destroy();
    expect(() => group.barrier()).toThrow('destroyed');
  });

  it('may be a group of one', async () => {
    const group = await open(0, 1);
    expect(group.backend).toBe('fake');
    group.allReduce(zeros([1])).wait();
    await group.destroy();
  });

  it('completes late: wait() returns at once, isCompleted and done() tell', async () => {
    const group = await open(0, 4, 'delay:150');
    const started = performance.now();
    const work = group.allReduce(zeros([3]));
    const waited = group.allReduce(zeros([3]));
    waited.wait();
    expect(performance.now() - started).toBeLessThan(100);
    expect(work.isCompleted).toBe(false);
    await work.done();
    expect(performance.now() - started).toBeGreaterThan(140);
    expect(work.isCompleted).toBe(true);
    const fast = await open(0, 4);
    const now = performance.now();
    await fast.barrier().done();
    expect(performance.now() - now).toBeLessThan(100);
    await Promise.all([group.destroy(), fast.destroy()]);
  });

  it('that hangs fails at the deadline, and refuses what comes later', async () => {
    const group = await open(2, 4, 'hang', 0.4);
    const started = performance.now();
    const [first, second] = [group.allReduce(zeros([3])), group.allGather(zeros([4]), zeros([1]))];
    await expect(first.done()).rejects.toMatchObject({
      code: 'COLLECTIVE_FAILED',
      message: expect.stringMatching(
        /^\[rank 2\/4\] all_reduce \(sum\) #1 on group 'plan' of float32 \(3\) failed: timed out after 0\.4 s\..*larger timeoutSeconds/,
      ),
    });
    expect(performance.now() - started).toBeGreaterThan(350);
    expect(performance.now() - started).toBeLessThan(3000);
    await expect(second.done()).rejects.toMatchObject({ code: 'COLLECTIVE_FAILED' });
    expect(() => group.barrier()).toThrow(/barrier on group 'plan': the group failed earlier: .*all_reduce \(sum\) #1/);
    await group.destroy();
    const next = await open(2, 4, '', 5);
    await next.barrier().done();
    await next.destroy();
  });

  it('that hangs refuses what comes later even when nobody asked for the result', async () => {
    const group = await open(0, 4, 'hang', 0.2);
    group.allReduce(zeros([3])).wait(); // a stream was told to wait
    await new Promise((resolve) => setTimeout(resolve, 500));
    expect(() => group.broadcast(zeros([3]))).toThrow(
      expect.objectContaining({
        code: 'COLLECTIVE_FAILED',
        message: expect.stringMatching(
          /broadcast .*failed: an earlier operation of the group failed: timed out after 0\.2 s/,
        ),
      }),
    );
    await expect(group.sum(1)).rejects.toThrow('the group failed earlier');
    await group.destroy();
  });

  it.each(['later', 'delay:', 'delay:soon', 'delay:-5'])('refuses the device %j', async (device) => {
    await expect(open(0, 2, device)).rejects.toThrow(/fake.*takes the device '', 'delay:MS' or 'hang', received/);
  });
});
