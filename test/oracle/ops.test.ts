// Every entry of torch's op database that can be passed goes through the bridge, forward and backward, in several dtypes,
// and must give what Python's torch gives. Entries that cannot be passed stand with their reason in ops-skipped.json,
// which this test checks (UPDATE=1 rewrites it). ops.py makes the cases, ops-replay.ts runs them.
import { readFileSync, writeFileSync } from 'node:fs';
import { beforeAll, expect, test } from 'vitest';
import { ShardloopError, scope, setNumThreads } from '../../lib/core/index.js';
import { type Case, replay } from './ops-replay.js';
import { type HostTensor, numbers, python } from './python.js';

const SAMPLES = { float32: 4, float64: 2, bfloat16: 2, int64: 2, bool: 1, complex64: 2 };
const BATCH = 24; // entries asked for at once, while the batch before is replayed here
const SKIPPED = new URL('./ops-skipped.json', import.meta.url);

// The kernels are those that Python runs, with one thread on both sides, so results are equal to the bit nearly
// everywhere. Where they are not, a kernel chose another path by the alignment of its memory: a few roundings of the
// dtype, measured against the largest value of the tensor.
const TOLERANCE: Record<string, number> = {
  float64: 1e-13,
  complex128: 1e-13,
  float32: 1e-6,
  complex64: 1e-6,
  bfloat16: 1.6e-2,
  float16: 2e-3,
};

// What these return is memory as it was found: only shape and dtype can be compared.
const UNINITIALIZED =
  /^(empty|empty_like|new_empty|new_empty_strided|empty_strided|empty_permuted|resize_|resize_as_)(\.|$)/;

interface Batch {
  cases: Case[];
  skipped: { entry: string; dtype?: string; sample?: number; reason: string }[];
}

const failures: string[] = [];
const inexact: string[] = [];
const forward = new Set<string>();
const withGradient = new Set<string>();
const skipped = new Map<string, Set<string>>();
let entries: string[] = [];
let cases = 0;

function skip(entry: string, reason: string): void {
  if (!skipped.has(entry)) skipped.set(entry, new Set());
  skipped.get(entry)!.add(reason);
}

/** Null when equal within the dtype's tolerance, else what differs. NaN equals NaN, and infinities must agree. */
function difference(ours: HostTensor, theirs: HostTensor, what: string): string | null {
  if (ours.dtype !== theirs.dtype) return `${what}: dtype ${ours.dtype}, Python ${theirs.dtype}`;
  if (ours.shape.join() !== theirs.shape.join()) return `${what}: shape [${ours.shape}], Python [${theirs.shape}]`;
  if (Buffer.compare(ours.data, theirs.data) === 0) return null;
  const a = numbers(ours);
  const b = numbers(theirs);
  let largest = 0;
  let worst = 0;
  for (let i = 0; i < b.length; i++) {
    if (Object.is(a[i], b[i]) || a[i] === b[i]) continue;
    if (!Number.isFinite(a[i]!) || !Number.isFinite(b[i]!)) return `${what}[${i}]: ${a[i]}, Python ${b[i]}`;
    worst = Math.max(worst, Math.abs(a[i]! - b[i]!));
  }
  for (const value of b) if (Number.isFinite(value)) largest = Math.max(largest, Math.abs(value));
  if (worst > (TOLERANCE[ours.dtype] ?? 0) * largest) return `${what}: differs by ${worst}, largest value ${largest}`;
  if (worst > 0) inexact.push(`${what}: ${worst} of ${largest}`);
  return null;
}

function check(one: Case, given: ReadonlyMap<string, HostTensor>): void {
  const name = `${one.entry} ${one.dtype} #${one.sample}`;
  cases++;
  try {
    const got = scope(() => replay(one, given));
    const wrong: (string | null)[] = [];
    for (const [id, ours] of got.outputs) {
      const theirs = given.get(`${one.number}.out.${id}`)!;
      const blank = UNINITIALIZED.test(one.entry) ? { ...ours, data: theirs.data } : ours;
      wrong.push(difference(blank, theirs, `${name} output`));
    }
    for (const [id, ours] of got.gradients) {
      const theirs = given.get(`${one.number}.grad.${id}`);
      if (ours && theirs) wrong.push(difference(ours, theirs, `${name} gradient`));
      else if (!ours !== !theirs)
        wrong.push(`${name} gradient: ${ours ? 'one' : 'none'}, Python ${theirs ? 'one' : 'none'}`);
    }
    const found = wrong.filter((w) => w !== null);
    failures.push(...found);
    if (found.length > 0) return;
    forward.add(one.entry);
    if (got.gradients.size > 0) withGradient.add(one.entry);
  } catch (error) {
    if (error instanceof ShardloopError && error.code === 'OP_REFUSED') {
      skip(one.entry, error.message);
      return;
    }
    const calls = one.calls.map((c) => `${c.op}(${JSON.stringify(c.args).slice(1, -1)})`).join('; ');
    failures.push(`${name}: ${(error as Error).message.split('\n')[0]} in ${calls.slice(0, 300)}`);
  }
}

beforeAll(async () => {
  setNumThreads(1);
  entries = (await python<{ entries: string[] }>('ops', { count: true })).value.entries;
  const only = process.env.OPS_ONLY ? new RegExp(process.env.OPS_ONLY) : null; // for work on a few entries
  const ask = (from: number) => python<Batch>('ops', { from, to: from + BATCH, samples: SAMPLES, only: only?.source });
  let next = ask(0);
  for (let from = 0; from < entries.length; from += BATCH) {
    const { value, tensors } = await next;
    if (from + BATCH < entries.length) next = ask(from + BATCH);
    for (const one of value.cases) {
      check(one, tensors);
      if (one.noGradient) skip(one.entry, one.noGradient);
    }
    for (const one of value.skipped) skip(one.entry, one.reason);
  }
  console.log(
    `${cases} cases; ${forward.size} of ${entries.length} entries forward, ${withGradient.size} backward; ` +
      `${inexact.length} results equal within tolerance, all others to the bit`,
  );
  if (inexact.length > 0) console.log(inexact.slice(0, 40).join('\n'));
});

test('every case that can be passed gives what Python gives', () => {
  expect(failures).toEqual([]);
});

test.skipIf(process.env.OPS_ONLY)('at least 450 entries pass, most of them backward too', () => {
  expect(forward.size).toBeGreaterThanOrEqual(670);
  expect(withGradient.size).toBeGreaterThanOrEqual(530);
});

test.skipIf(process.env.OPS_ONLY)('what cannot be passed is exactly what ops-skipped.json lists', () => {
  const rows = [...skipped].sort(([a], [b]) => (a < b ? -1 : 1));
  const list = {
    what: 'Entries of op_db that ops.test.ts cannot pass (not at all, or not with some samples), with the reasons.',
    notAtAll: Object.fromEntries(
      rows.filter(([name]) => !forward.has(name)).map(([name, why]) => [name, [...why].sort()]),
    ),
    inPart: Object.fromEntries(
      rows.filter(([name]) => forward.has(name)).map(([name, why]) => [name, [...why].sort()]),
    ),
  };
  if (process.env.UPDATE) writeFileSync(SKIPPED, `${JSON.stringify(list, null, 2)}\n`);
  expect(list).toEqual(JSON.parse(readFileSync(SKIPPED, 'utf8')));
});
