// A model and a way to train it, as text for programs that run as several ranks (test/dist/ranks.ts), and the reading of what
// they report.
import { expect } from 'vitest';
import type { RankRun } from '../dist/ranks.js';

/** The `count` distances by name that a rank reported; it must have printed no error. */
export function distancesOf({ err, reports }: RankRun, count: number): [name: string, distance: number][] {
  expect(err).toBe('');
  const distances = Object.entries(reports[0] as Record<string, number>);
  expect(distances).toHaveLength(count);
  return distances;
}

/**
 * `build(seed, dtype)`: segments whose first and last share a weight, with a parameter that nothing uses, a frozen one and
 * one without elements. `run(model, rows, options)`: forward and backward of this share of the loss over all six records.
 */
export const MODEL = `
const { ops, tensor, noGrad } = core;
class Part extends nn.Module { constructor(fields) { super(); Object.assign(this, fields); } forward(x) { return x; } }
function build(seed, dtype = 'float32') {
  core.manualSeed(seed);
  const randn = (shape) => noGrad(() => ops._to_copy(core.randn(shape, { dtype: 'float64' }), { dtype }));
  const weight = nn.parameter(randn([7, 4]));
  const unused = nn.parameter(randn([5]));
  const empty = nn.parameter(randn([0, 4]));
  const frozen = nn.parameter(core.ones([4], { dtype })); frozen.requiresGrad = false;
  const hidden = [0, 1].map(() => new Part({ weight: nn.parameter(randn([4, 4])), bias: nn.parameter(randn([4])) }));
  const embed = new Part({ weight }), head = new Part({ weight, unused, empty });
  const segments = [
    nn.segment('embed', [embed], ([ids]) => [ops.embedding(weight, ids)]),
    ...hidden.map((h, i) => nn.segment('h.' + i, [h, new Part({ frozen })],
      ([x]) => [ops.tanh(ops.add(ops.linear(x, h.weight, { bias: h.bias }), frozen))])),
    nn.segment('head', [head], ([x]) => [ops.linear(x, weight)]),
  ];
  const parameters = [weight, ...hidden.flatMap((h) => [h.weight, h.bias])];
  return { segments, parameters, unused, empty, frozen };
}
const records = Array.from({ length: 6 }, (_, i) => [i % 7, (i * 3 + 1) % 7, (i * 5 + 2) % 7]);
const ids = (rows) => tensor(BigInt64Array.from(rows.flat().map(BigInt)), { shape: [rows.length, 3] });
/** This share of the loss over all six records: the sum over the share, divided by the global count. */
const run = (model, rows, options) => {
  if (rows.length === 0) return parallel.skipSegments(model.segments, options.strategy, options.last);
  const input = ids(rows);
  const loss = parallel.runSegments(model.segments, [input], ([logits]) =>
    ops.div(nn.crossEntropy(ops.view(logits, [-1, 7]), ops.view(input, [-1]), { reduction: 'sum' }), 18), options);
  for (const t of [input, loss]) t.dispose();
};
const step = (model) => noGrad(() => core.scope(() => {
  for (const p of model.parameters) { ops.sub_(p, ops.mul(p.grad, 0.5)); p.grad = null; }
}));
const distance = (a, b) => Math.max(...a.map((p, i) => ops.max(ops.abs(ops.sub(p, b[i]))).itemSync()));
const reference = (steps) => {
  const model = build(0);
  for (let i = 0; i < steps; i++) { run(model, records, {}); step(model); }
  return model.parameters;
};
const group = await dist.init({ timeoutSeconds: 30 });
`;
