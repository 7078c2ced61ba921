// Groups over NCCL: a world of one on the device, and two ranks on one device where NCCL permits it (2.30 and later with
// NCCL_MULTI_RANK_GPU_ENABLE=1), else Gloo with CUDA tensors. Run by scripts/device-check.mjs.
import { expect, it } from 'vitest';
import { arange, ones, rand, synchronize, tensor, zeros } from '../../lib/core/index.js';
import { createGroup } from '../../lib/dist/index.js';
import { diagnose } from '../../lib/setup/diagnose.js';
import { runRanks } from '../dist/ranks.js';

const device = 'cuda:0';
let name = 0;
const alone = (timeoutSeconds = 30) =>
  createGroup({ rank: 0, size: 1, backend: 'nccl', device, timeoutSeconds, store: { inProcess: `gpu ${name++}` } });

it('a world of one: every collective, by wait and by promise', async () => {
  const group = await alone();
  expect([group.backend, group.size]).toEqual(['nccl', 1]);
  const t = arange(0, 4, { dtype: 'float32', device });
  for (const op of ['sum', 'avg', 'min', 'max', 'product'] as const) await group.allReduce(t, op).done();
  group.broadcast(t).wait();
  group.reduce(t).wait();
  const out = zeros([4], { device });
  group.allGather(out, t).wait();
  expect(await out.data()).toEqual(Float32Array.of(0, 1, 2, 3));
  group.reduceScatter(out, t.add(1)).wait();
  expect(await out.data()).toEqual(Float32Array.of(1, 2, 3, 4));
  group.allToAll(out, t).wait();
  await group.barrier().done();
  expect(await group.sum(2.5)).toBe(2.5);
  expect(await out.data()).toEqual(Float32Array.of(0, 1, 2, 3));
  await group.destroy();
});

it('orders communication behind compute on the stream, without a wait of the host between', async () => {
  const group = await alone();
  const a = rand([2048, 2048], { device });
  let product = a;
  for (let i = 0; i < 20; i++) product = product.matmul(a).div(1000);
  group.allReduce(product).wait(); // the stream waits, not this thread
  const doubled = product.mul(2);
  synchronize(device);
  const [x, y] = [await product.data(), await doubled.data()];
  for (let i = 0; i < 100; i++) expect(y[i]).toBe((x[i] as number) * 2);
  await group.destroy();
});

it('carries CUDA tensors only, and can be made anew', async () => {
  for (let i = 0; i < 3; i++) {
    const group = await alone();
    expect(() => group.allReduce(ones([2]))).toThrow(/backend 'nccl' carries CUDA tensors/);
    group.allReduce(tensor([1], { device })).wait();
    await group.destroy();
    expect(() => group.barrier()).toThrow('destroyed');
  }
});

it('two ranks on one device', async () => {
  const { nccl } = await diagnose();
  const [major = 0, minor = 0] = (nccl?.version ?? '').split('.').map(Number);
  const backend = major > 2 || (major === 2 && minor >= 30) ? 'nccl' : 'gloo';
  console.warn(`two ranks on one device over ${backend} (NCCL ${nccl?.version})`);
  const runs = await runRanks(
    2,
    `const group = await dist.createGroup({
       rank, size, backend: '${backend}', device: 'cuda:0', timeoutSeconds: 60,
       store: { host: '127.0.0.1', port: Number(process.env.MASTER_PORT), serve: rank === 0 },
     });
     const t = core.tensor([rank + 1, 2], { device: 'cuda:0' });
     await group.allReduce(t).done();
     const all = core.zeros([4], { device: 'cuda:0' });
     await group.allGather(all, t.mul(rank + 1)).done();
     report({ sum: Array.from(await t.data()), all: Array.from(await all.data()) });
     await group.destroy();`,
    { NCCL_MULTI_RANK_GPU_ENABLE: '1' },
  );
  for (const run of runs) {
    expect(run.err).toBe('');
    expect(run.reports[0]).toEqual({ sum: [3, 4], all: [3, 4, 6, 8] });
  }
});
