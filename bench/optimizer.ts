// The optimizer's step, one pass over memory, in GB/s, against a plain copy of the same bytes in the same run, against
// torch's fused update with clipping and casts around it, and against our own composed update. Each step here includes
// the gradient norm and clipping. Goals: 0.8 of the copy, 1.2 times torch. Bytes are those that the step must read and
// write, stated at each case; the norm reads the gradients once more, which is counted.
import { type DType, getNumThreads, ops, optim, randn, type Tensor, zeros } from 'shardloop';
import { type Contender, compare, type Goals, medianOf, print, pythonContenders, type Report } from './harness.js';

/** The parameters of one GPT-2 block of width 768, twice, and a table of 8M: large and small ones together. */
const BLOCK = [768, 768, 768 * 2304, 2304, 768 * 768, 768, 768, 768, 768 * 3072, 3072, 3072 * 768, 768];
const SIZES = [8_388_608, ...BLOCK, ...BLOCK];
const NUMEL = SIZES.reduce((sum, n) => sum + n, 0);

interface Case {
  name: string;
  dtype: DType;
  /** Read and written for each element, the gradient's second reading for the norm included. */
  bytes: number;
  make: (groups: { params: Tensor[] }[], fused: boolean) => optim.Optimizer;
  python: boolean;
}

const CASES: Case[] = [
  {
    name: 'adamw fp32',
    dtype: 'float32',
    bytes: 4 + 16 + 12, // norm; p g m v; p m v
    make: (groups, fused) => new optim.AdamW({ groups, fused }),
    python: true,
  },
  {
    name: 'adamw bf16',
    dtype: 'bfloat16',
    bytes: 2 + 14 + 14, // norm; master, g of 2, m v; master m v and the parameter of 2
    make: (groups, fused) => new optim.AdamW({ groups, fused }),
    python: true,
  },
  {
    name: 'sgd fp32',
    dtype: 'float32',
    bytes: 4 + 12 + 8,
    make: (groups, fused) => new optim.SGD({ groups, fused, momentum: 0.9, weightDecay: 0.01 }),
    python: true,
  },
  {
    name: 'lion fp32',
    dtype: 'float32',
    bytes: 4 + 12 + 8,
    make: (groups, fused) => new optim.Lion({ groups, fused, weightDecay: 0.01 }),
    python: false,
  },
];

/** The two ends of the copies: as large as the case with the most bytes needs. */
const copied = [0, 1].map(() => zeros([(NUMEL * Math.max(...CASES.map(({ bytes }) => bytes))) / 2 / 4]));

/** Runs the benchmark and prints it. */
export async function optimizer(json: boolean): Promise<Report> {
  const python = pythonContenders(
    'optimizer.py',
    CASES.filter((each) => each.python).map(({ name }) => name),
    [getNumThreads(), ...SIZES].map(String),
  );
  const contenders = CASES.flatMap((each) => [
    copyOf(each),
    step(each, true),
    ...python.contenders.filter(({ name }) => name === `python ${each.name}`),
  ]);
  const timings = await compare(contenders, { rounds: 15, iterations: 2, warmups: 2 });
  python.close();
  // Takes some ten times as long, so it is asked less often.
  const composed = CASES.map((each) => step(each, false));
  timings.push(...(await compare(composed, { rounds: 3, iterations: 1, warmups: 1 })));
  const ratios: Record<string, number> = {};
  const goals: Goals = {};
  for (const { name, bytes, python } of CASES) {
    const ours = medianOf(timings, `shardloop ${name}`);
    ratios[`${name}: GB/s, ${bytes} bytes an element`] = (NUMEL * bytes) / ours;
    const [copy, torch] = [`${name}: GB/s, of the copy's`, `${name}: times as fast as torch`];
    ratios[copy] = medianOf(timings, `copy as many bytes as ${name}`) / ours;
    goals[copy] = { atLeast: 0.8 };
    if (python) {
      ratios[torch] = medianOf(timings, `python ${name}`) / ours;
      goals[torch] = { atLeast: 1.2 };
    }
    ratios[`${name}: times as fast as composed`] = medianOf(timings, `composed ${name}`) / ours;
  }
  return print('optimizer', timings, ratios, json, goals);
}

function timed(name: string, work: () => void): Contender {
  return {
    name,
    run(iterations) {
      const start = process.hrtime.bigint();
      for (let i = 0; i < iterations; i++) work();
      return Number(process.hrtime.bigint() - start) / iterations;
    },
  };
}

/** A copy that reads and writes as many bytes together as the step does. */
function copyOf({ name, bytes }: Case): Contender {
  const elements = Math.round((NUMEL * bytes) / 2 / 4);
  const [from, to] = copied.map((t) => ops.narrow(t, 0, 0, elements)) as [Tensor, Tensor];
  return timed(`copy as many bytes as ${name}`, () => {
    ops.copy_(to, from);
  });
}

function step({ name, dtype, make }: Case, fused: boolean): Contender {
  const params = SIZES.map((n) => randn([n]).to({ dtype }));
  for (const p of params) p.grad = randn([p.numel]).to({ dtype });
  const optimizer =
    dtype === 'bfloat16'
      ? new optim.MasterWeights({ groups: [{ params }], optimizer: (groups) => make(groups, fused) })
      : make([{ params }], fused);
  return timed(`${fused ? 'shardloop' : 'composed'} ${name}`, () => {
    const norm = optim.gradNorm(params);
    optimizer.step({ gradScale: optim.clipCoefficient(norm, 1) });
  });
}
