// Several worker threads in one process compute at once and are terminated in the middle of an operation, round after
// round; the process must live and the other threads must not notice. Run as a program: `node --import tsx workers.ts
// ROUNDS`; it starts itself again as each worker.
import { once } from 'node:events';
import { isMainThread, parentPort, Worker, workerData } from 'node:worker_threads';
import { manualSeed, memory, ones, randn, ShardloopError, scope, setNumThreads, Tensor } from '../../lib/core/index.js';

/** What the process prints at its end. */
export interface Report {
  rounds: number;
  terminated: number;
  /** Sums that workers which were let run sent back: each must be right. */
  sums: number[];
  /** What a worker got for the handle of a tensor of the main thread: a code. */
  foreign: string[];
  handlesBefore: number;
  handlesAfter: number;
}

type Task = 'forever' | 'large' | 'backward' | 'async' | 'sum';

function work(task: Task): void {
  setNumThreads(1);
  manualSeed(1);
  parentPort!.postMessage('started');
  if (task === 'forever') {
    for (;;)
      scope(() =>
        randn([8, 8])
          .matmul(randn([8, 8]))
          .sum()
          .itemSync(),
      );
  }
  if (task === 'large') {
    for (;;) scope(() => randn([600, 600]).matmul(randn([600, 600])));
  }
  if (task === 'backward') {
    const w = randn([64, 64], { requiresGrad: true });
    for (;;) scope(() => randn([16, 64]).matmul(w).tanh().sum().backward());
  }
  if (task === 'async') {
    const tensor = randn([1000, 1000]);
    const again = (): void => void tensor.data().then(again);
    again();
    again();
    return;
  }
  let sum = 0;
  for (let i = 0; i < 200; i++) sum += scope(() => ones([10, 10]).sum().itemSync() as number);
  parentPort!.postMessage({ sum, foreign: codeOf(() => new Tensor(workerData.handle as number).dataSync()) });
}

function codeOf(fn: () => unknown): string {
  try {
    fn();
    return 'no error';
  } catch (error) {
    return error instanceof ShardloopError ? error.code : String(error);
  }
}

// A worker's entry is not taken by --import tsx: it registers tsx itself.
const BOOT = `import(${JSON.stringify(import.meta.resolve('tsx/esm/api'))})
  .then((tsx) => { tsx.register(); return import(${JSON.stringify(import.meta.url)}); });`;

const TASKS: readonly Task[] = ['forever', 'large', 'backward', 'async', 'sum'];

/** Runs `rounds` rounds of five workers at once. */
export async function terminate(rounds: number): Promise<Report> {
  setNumThreads(1);
  const report: Report = { rounds, terminated: 0, sums: [], foreign: [], handlesBefore: 0, handlesAfter: 0 };
  const mine = ones([3]);
  report.handlesBefore = memory.stats().handles;
  for (let round = 0; round < rounds; round++) {
    await Promise.all(
      TASKS.map(async (task, i) => {
        const worker = new Worker(BOOT, { eval: true, workerData: { task, handle: 2 ** 45 + 3 } });
        await once(worker, 'message'); // started
        if (task === 'sum') {
          const [{ sum, foreign }] = (await once(worker, 'message')) as [{ sum: number; foreign: string }];
          report.sums.push(sum);
          report.foreign.push(foreign);
          await once(worker, 'exit');
          return;
        }
        await new Promise((resolve) => setTimeout(resolve, 5 + ((round * 7 + i * 13) % 40)));
        await worker.terminate();
        report.terminated++;
      }),
    );
    scope(() => mine.add(1).sum().itemSync()); // this thread goes on meanwhile
  }
  report.handlesAfter = memory.stats().handles;
  return report;
}

if (!isMainThread) work((workerData as { task: Task }).task);
else if (process.argv[1]?.endsWith('workers.ts')) {
  terminate(Number(process.argv[2])).then((report) => process.stdout.write(JSON.stringify(report)));
}
