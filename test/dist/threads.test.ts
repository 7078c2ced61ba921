// Ranks as worker threads of one process, over an in-process store; and workers that end while a collective is under
// way. In a process of its own, so that a crash shows.
import { describe, expect, it } from 'vitest';
import { runRanks } from './ranks.js';

const WORKERS = `
  import { Worker, isMainThread, parentPort, workerData } from 'node:worker_threads';
  /** \`first\` is its first message, or its error: listened for from the start, because either may come before it is asked for. */
  const start = (data) => {
    const worker = new Worker(new URL(import.meta.url), { workerData: data });
    worker.first = new Promise((resolve, reject) => { worker.once('message', resolve); worker.once('error', reject); });
    return worker;
  };
  const join = ({ rank, size, name }) => dist.createGroup({ rank, size, store: { inProcess: name }, timeoutSeconds: 30 });`;

describe('worker threads', () => {
  it('are ranks beside each other', async () => {
    const [run] = await runRanks(
      1,
      `${WORKERS}
       if (isMainThread) {
         const workers = Array.from({ length: 4 }, (_, rank) => start({ rank, size: 4, name: 'four' }));
         report({ sums: await Promise.all(workers.map((w) => w.first)) });
       } else {
         const group = await join(workerData);
         const t = core.tensor([workerData.rank, 1]);
         for (let i = 0; i < 20; i++) await group.allReduce(t, i % 2 ? 'avg' : 'sum').done();
         parentPort.postMessage(t.toArray());
         await group.destroy();
       }`,
    );
    expect(run!.err).toBe('');
    const sums = run!.reports[0]!.sums as number[][];
    expect(sums).toHaveLength(4);
    for (const sum of sums) expect(sum).toEqual(sums[0]);
  });

  it('may be terminated while they wait, without harm to the others', async () => {
    const [run] = await runRanks(
      1,
      `${WORKERS}
       if (isMainThread) {
         const worker = start({ rank: 1, size: 2, name: 'two' });
         const group = await join({ rank: 0, size: 2, name: 'two' });
         await worker.first;
         await worker.terminate();
         await group.allReduce(core.zeros([8])).done(); // pairs with the reduction whose promise is gone
         const again = start({ rank: 1, size: 2, name: 'three' });
         const second = await join({ rank: 0, size: 2, name: 'three' });
         await again.first;
         await again.terminate();
         report({ first: core.tensor([1]).itemSync(), second: second.size });
       } else {
         const group = await join(workerData);
         const works = [group.allReduce(core.zeros([8])), group.barrier(), group.barrier()].map((work) => work.done());
         parentPort.postMessage('launched');
         await Promise.all(works);
       }`,
    );
    expect(run!.err).toBe('');
    expect(run!.code).toBe(0);
    expect(run!.reports[0]).toEqual({ first: 1, second: 2 });
  });

  const ENDINGS = `
    import { internals } from '${new URL('../../dist/dist/group.js', import.meta.url).href}';
    const soon = async (fn) => { for (let i = 0; i < 100 && !fn(); i++) await new Promise((resolve) => setTimeout(resolve, 50)); return fn(); };
    const isClosed = ([id, store]) => /no open group/.test(refusal(() => core.call('shardloop::group_ask', id))) && core.call('shardloop::store_is_open', store) === false;
    const places = (...groups) => groups.map((g) => [internals(g).wire.id, internals(g).store]);
    /** Ends the worker as the test says, once it has told where its groups are. */
    const ended = async (worker) => {
      const left = await worker.first;
      const exit = new Promise((resolve) => worker.once('exit', resolve));
      if (how === 'terminate') await worker.terminate(); else worker.postMessage('go');
      return { left, code: await exit };
    };
    const end = async (...groups) => {
      const going = new Promise((resolve) => parentPort.once('message', resolve));
      parentPort.postMessage(places(...groups));
      await going; // a natural end: nothing is destroyed, nothing waited for
    };`;

  it.each(['terminate', 'natural'])('may end with subgroups open and works in flight: %s', async (how) => {
    const [run] = await runRanks(
      1,
      `${WORKERS} const how = '${how}'; ${ENDINGS}
       if (isMainThread) {
         const worker = start({ rank: 1, size: 2, name: 'open' });
         const group = await join({ rank: 0, size: 2, name: 'open' });
         const inner = await dist.subgroup(group, [1, 0], { name: 'inner' });
         const { left, code } = await ended(worker);
         const closed = await soon(() => left.every(isClosed));
         const began = Date.now();
         // What it had launched is still done; what it had not fails soon, and not at the deadline of 30 s.
         const t = core.ones([4]);
         const launched = await failure(() => group.allReduce(t).done());
         const missing = await failure(() => inner.allReduce(t).done());
         const soonEnough = Date.now() - began < 10000;
         const works = await soon(() => core.call('shardloop::works_in_flight') === 0);
         await inner.destroy();
         await group.destroy();
         report({ code, groups: left.length, closed, launched, t: t.toArray(), missing: missing.slice(0, 18), soonEnough, works });
       } else {
         const group = await join(workerData);
         const inner = await dist.subgroup(group, [1, 0], { name: 'inner' });
         const alone = await dist.createGroup({ rank: 0, size: 3, backend: 'fake' });
         group.allReduce(core.ones([4]));
         await alone.allReduce(core.ones([2])).done();
         alone.allReduce(core.ones([2]));
         await end(group, inner, alone);
       }`,
    );
    expect(run!.err).toBe('');
    expect(run!.code).toBe(0);
    expect(run!.reports).toEqual([
      {
        ...{ code: how === 'terminate' ? 1 : 0, groups: 3, closed: true, launched: 'no error', t: [2, 2, 2, 2] },
        ...{ missing: 'COLLECTIVE_FAILED:', soonEnough: true, works: true },
      },
    ]);
  });

  it.each(['terminate', 'natural'])('may end after a group of theirs has failed: %s', async (how) => {
    const [run] = await runRanks(
      1,
      `${WORKERS} const how = '${how}'; ${ENDINGS}
       if (isMainThread) {
         const worker = start({ rank: 1, size: 2, name: 'failed' });
         const group = await join({ rank: 0, size: 2, name: 'failed' });
         await group.barrier().done();
         await group.destroy();
         const { left, code } = await ended(worker);
         report({ code, closed: await soon(() => left.every(isClosed)), works: core.call('shardloop::works_in_flight') });
       } else {
         const group = await join(workerData);
         const inner = await dist.createGroup({ rank: 0, size: 3, backend: 'fake', device: 'hang', name: 'hang' });
         await group.barrier().done();
         const text = await failure(() => group.allReduce(core.ones([4])).done());
         if (!text.startsWith('COLLECTIVE_FAILED')) throw new Error(text);
         inner.allReduce(core.ones([4]));
         await end(group, inner);
       }`,
    );
    expect(run!.err).toBe('');
    expect(run!.code).toBe(0);
    expect(run!.reports).toEqual([{ code: how === 'terminate' ? 1 : 0, closed: true, works: 0 }]);
  });

  it.each(['terminate', 'natural'])('may end while a group of theirs is being opened: %s', async (how) => {
    const [run] = await runRanks(
      1,
      `${WORKERS} const how = '${how}';
       if (isMainThread) {
         for (let i = 0; i < 3; i++) {
           const worker = start({ rank: 1, size: 2, name: 'opening' + i });
           await worker.first;
           if (how === 'terminate') await worker.terminate(); else await new Promise((resolve) => worker.once('exit', resolve));
         }
         report({ works: core.call('shardloop::works_in_flight') });
       } else {
         const opening = dist.createGroup({ ...workerData, store: { inProcess: workerData.name }, timeoutSeconds: 2 });
         opening.catch(() => {}); // nobody comes
         await new Promise((resolve) => setTimeout(resolve, 100));
         parentPort.postMessage('opening');
       }`,
    );
    expect(run!.err).toBe('');
    expect(run!.code).toBe(0);
    expect(run!.reports).toEqual([{ works: 0 }]);
  });
});
