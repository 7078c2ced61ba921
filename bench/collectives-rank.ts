// Our side of bench/collectives.ts: a rank that reads `operation bytes iterations`, runs as many unmeasured and then measured,
// and answers with the nanoseconds of one. Arguments: rank, size, the port of the store, the backend.
import { createInterface } from 'node:readline';
import { dist, setNumThreads, type Tensor, tensor } from 'shardloop';

const [rank, size, port] = process.argv.slice(2, 5).map(Number) as [number, number, number];
const backend = process.argv[5] as 'gloo' | 'shm';
setNumThreads(1);
const ones = tensor(new Array(size).fill(1));
const one = tensor([1]);
const group = await dist.createGroup({
  rank,
  size,
  store: { host: '127.0.0.1', port, serve: rank === 0 },
  oneHost: true,
  backend,
});

const once: Record<string, (on: dist.Group, whole: Tensor, shard: Tensor) => void> = {
  all_reduce: (on, whole) => on.allReduce(whole).wait(),
  all_gather: (on, whole, shard) => on.allGather(whole, shard).wait(),
  reduce_scatter: (on, whole, shard) => on.reduceScatter(shard, whole).wait(),
};

// V8 compiles what runs often: a training run is long beyond that, and the few operations of a round would not be.
const warm = await dist.createGroup({ rank, size, backend: 'fake', name: 'warm' });
for (const work of Object.values(once)) {
  for (let i = 0; i < 20_000; i++) work(warm, ones, one);
}
await warm.destroy();

for await (const line of createInterface({ input: process.stdin })) {
  const [name, bytes, iterations] = line.split(' ') as [string, string, string];
  const whole = tensor(new Float32Array(Number(bytes) / 4).fill(1));
  const shard = tensor(new Float32Array(Number(bytes) / 4 / size).fill(1));
  const work = once[name]!;
  for (let i = 0; i < Number(iterations); i++) work(group, whole, shard);
  group.barrier().wait();
  const start = process.hrtime.bigint();
  for (let i = 0; i < Number(iterations); i++) work(group, whole, shard);
  console.log(Number(process.hrtime.bigint() - start) / Number(iterations));
  whole.dispose();
  shard.dispose();
}
await group.destroy();
