// What one call through the door costs: add of one element from TypeScript, inside a scope, against Python's torch.
// The goals are 0.7 of Python's time, and 0.8 with gradient. It measures the bridge, not the kernel.
import { ops, scope, setNumThreads, tensor } from 'shardloop';
import { compare, medianOf, print, pythonContenders, type Report } from './harness.js';

const PER_SCOPE = 1000; // ops between two scope ends; their cost is part of the time, as freeing is part of Python's

/** Runs the benchmark and prints it. */
export async function dispatch(json: boolean): Promise<Report> {
  setNumThreads(1);
  const a = tensor([1]);
  const b = tensor([2]);
  const g = tensor([1], { requiresGrad: true });
  const loop = (work: () => unknown) => (iterations: number) => {
    const start = process.hrtime.bigint();
    for (let done = 0; done < iterations; done += PER_SCOPE) {
      scope(() => {
        for (let i = 0; i < PER_SCOPE; i++) work();
      });
    }
    return Number(process.hrtime.bigint() - start) / iterations;
  };
  const ours = [
    { name: 'shardloop ops.add(a, b)', run: loop(() => ops.add(a, b)) },
    { name: 'shardloop a.add(b)', run: loop(() => a.add(b)) },
    { name: 'shardloop g.add(b), with gradient', run: loop(() => g.add(b)) },
  ];
  const python = pythonContenders('dispatch.py', ['torch.add(a, b)', 'a + b', 'a + b, with gradient']);
  const timings = await compare([...ours, ...python.contenders], { rounds: 31, iterations: 20_000, warmups: 5 });
  python.close();
  const time = (name: string) => medianOf(timings, name);
  const fastest = Math.min(time('python a + b'), time('python torch.add(a, b)'));
  return print(
    'dispatch',
    timings,
    {
      "ops.add, of the faster of Python's time": time('shardloop ops.add(a, b)') / fastest,
      "with gradient, of Python's time":
        time('shardloop g.add(b), with gradient') / time('python a + b, with gradient'),
    },
    json,
    { "ops.add, of the faster of Python's time": { atMost: 0.7 }, "with gradient, of Python's time": { atMost: 0.8 } },
  );
}
