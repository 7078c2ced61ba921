// Ranks as worker threads of one process, over an in-process store; and workers that end while a collective is under
// way. In a process of its own, so that a crash shows.
import { describe, expect, it } from 'vitest';
import { runRanks } from './ranks.js';

const WORKERS = `
  import { Worker, isMainThread, parentPort, workerData } from 'node:worker_threads';
  const start = (data) => new Worker(new URL(import.meta.url), { workerData: data });
  const join = ({ rank, size, name }) => dist.createGroup({ rank, size, store: { inProcess: name }, timeoutSeconds: 30 });`;

describe('worker threads', () => {
  it('are ranks beside each other', async () => {
    const [run] = await runRanks(
      1,
      `${WORKERS}
       if (isMainThread) {
         const workers = Array.from({ length: 4 }, (_, rank) => start({ rank, size: 4, name: 'four' }));
         report({ sums: await Promise.all(workers.map((w) => new Promise((resolve, reject) => { w.once('message', resolve); w.once('error', reject); }))) });
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
         await new Promise((resolve) => worker.once('message', resolve));
         await worker.terminate();
         await group.allReduce(core.zeros([8])).done(); // pairs with the reduction whose promise is gone
         const again = start({ rank: 1, size: 2, name: 'three' });
         const second = await join({ rank: 0, size: 2, name: 'three' });
         await new Promise((resolve) => again.once('message', resolve));
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
});
