// worker_threads: every thread has tensors of its own, threads work at once, and a thread may end in mid-operation.
// The workers run the built package (dist/), in this process.
import { execFile } from 'node:child_process';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { promisify } from 'node:util';
import { Worker } from 'node:worker_threads';
import { expect, it } from 'vitest';
import { handleOf } from '../../lib/core/tensor-class.js';
import { memory, ops, tensor, zeros } from '../../lib/index.js';

const dist = pathToFileURL(join(import.meta.dirname, '..', '..', 'dist', 'index.js')).href;

/** A worker with the package as `s`; `body` may use parentPort and workerData. */
function start(body: string, workerData: unknown = null): Worker {
  const code = `
    const { parentPort, workerData } = require('node:worker_threads');
    import(${JSON.stringify(dist)}).then(async (s) => { ${body} }).catch((error) =>
      parentPort.postMessage({ failed: error.code ?? String(error), message: error.message }));`;
  return new Worker(code, { eval: true, workerData });
}

function message(worker: Worker): Promise<unknown> {
  return new Promise((resolve, reject) => {
    worker.once('message', resolve);
    worker.once('error', reject);
  });
}

async function answer(body: string, data: unknown = null): Promise<unknown> {
  const worker = start(body, data);
  const result = await message(worker);
  await worker.terminate();
  return result;
}

it('several threads compute at once, each with its own tensors and modes', async () => {
  const body = `
    let sum = 0;
    for (let i = 0; i < 200; i++) {
      sum += s.scope(() => {
        const x = s.full([16, 16], workerData, { requiresGrad: true });
        s.ops.matmul(x, x).sum().backward();
        return Number(x.grad.get(0, 0).itemSync());
      });
    }
    s.noGrad(() => parentPort.postMessage({ sum, handles: s.memory.stats().handles, grad: s.isGradEnabled() }));`;
  const before = memory.stats().handles;
  const results = await Promise.all([1, 2, 3].map((value) => answer(body, value)));
  expect(results).toEqual([1, 2, 3].map((value) => ({ sum: 200 * 32 * value, handles: 0, grad: false })));
  expect(memory.stats().handles).toBe(before);
});

it('a handle of another thread is refused', async () => {
  const t = tensor([1, 2]);
  const result = await answer('new s.Tensor(workerData).shape;', handleOf(t));
  expect(result).toMatchObject({ failed: 'TENSOR_FOREIGN' });
  expect((result as { message: string }).message).toContain('thread');
  expect(t.toArray()).toEqual([1, 2]);
});

it('a tensor that was sent is refused by name', async () => {
  expect(await answer('s.ops.relu(workerData);', tensor([1]))).toMatchObject({ failed: 'TENSOR_FOREIGN' });
});

it('data crosses instead', async () => {
  const doubled = await answer(
    'parentPort.postMessage(await s.tensor(workerData).mul(2).data());',
    await tensor([1, 2]).data(),
  );
  expect(doubled).toEqual(Float32Array.of(2, 4));
});

it('a thread may be ended in the middle of its operations', async () => {
  const busy = `
    parentPort.postMessage('started');
    const a = s.randn([256, 256]);
    for (;;) s.scope(() => s.ops.matmul(a, a).sum());`;
  // This one loads the addon after it has said so: it may be ended while it loads.
  const loading = `parentPort.postMessage('started'); for (;;) try { s.ops.relu(s.zeros([2]).shape); } catch {}`;
  for (let i = 0; i < 8; i++) {
    const worker = start(i % 2 === 0 ? loading : busy);
    await message(worker);
    await new Promise((resolve) => setTimeout(resolve, 20 * i));
    await worker.terminate();
  }
  expect(ops.matmul(zeros([2, 2]), zeros([2, 2])).shape).toEqual([2, 2]);
});

it('or while it reads, in a scope, or inside a backward of its own', async () => {
  const bodies = [
    `const t = s.zeros([2_000_000]); parentPort.postMessage(1); for (;;) await t.data();`,
    `s.scope(() => { s.zeros([10]); parentPort.postMessage(1); for (;;) s.zeros([10]).add_(1).dispose(); });`,
    `const f = s.customFunction({ forward: (_c, x) => x.mul(1), backward: (_c, g) => { parentPort.postMessage(1); for (;;); } });
     f(s.tensor([1], { requiresGrad: true })).sum().backward();`,
    `const f = s.customFunction({ forward: (_c, x) => x.mul(1), backward: (_c, g) => g });
     globalThis.y = f(s.tensor([1], { requiresGrad: true })); parentPort.postMessage(1); setInterval(() => {}, 1000);`,
  ];
  for (const body of bodies) {
    const worker = start(body);
    expect(await message(worker)).toBe(1);
    await worker.terminate();
  }
  expect(tensor([1]).add(1).itemSync()).toBe(2);
});

it('a process that uses shardloop in a worker alone ends in peace', async () => {
  const inner = `import(${JSON.stringify(dist)}).then((s) => s.ones([3]).sum().itemSync())`;
  const code = `
    const { Worker } = require('node:worker_threads');
    const run = () => new Promise((done) => new Worker(${JSON.stringify(inner)}, { eval: true }).once('exit', done));
    run().then(run).then((code) => console.log('code', code));`;
  const { stdout } = await promisify(execFile)(process.execPath, ['-e', code]);
  expect(stdout).toContain('code 0');
});
