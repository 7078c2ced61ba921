// Two benchmarks side by side, without running anything: a verdict for each size from the medians, against the noise that
// their own deviations show.
import { readFileSync } from 'node:fs';
import { describe, ShardloopError } from '../core/errors.js';
import type { BenchResult, Row } from './run.js';
import type { Spread } from './statistics.js';

/** How the second measurement stands to the first. */
export type Verdict = 'faster' | 'slower' | 'same';

/** Differences below this part of the first median count as noise, however small the deviations are. */
const LEAST = 0.05;

/** 'slower' or 'faster' when the medians differ by more than 5 % and by more than the two samples' pooled deviation. */
export function verdictOf(before: Spread, after: Spread): Verdict {
  const pooled = Math.sqrt((before.stdevUs ** 2 + after.stdevUs ** 2) / 2);
  const noise = Math.max(LEAST * before.p50Us, pooled);
  const difference = after.p50Us - before.p50Us;
  if (Math.abs(difference) <= noise) return 'same';
  return difference > 0 ? 'slower' : 'faster';
}

/** One row and place that both files have. */
export interface Comparison {
  readonly operation: string;
  readonly row: Row;
  readonly place: 'out-of-place' | 'in-place';
  readonly before: Spread;
  readonly after: Spread;
  readonly verdict: Verdict;
}

/** Compares what both have. Throws BAD_ARGUMENT when that is nothing. */
export function compareResults(before: readonly BenchResult[], after: readonly BenchResult[]): Comparison[] {
  const key = (result: BenchResult, row: Row) =>
    [result.operation, result.ranks, result.backend, row.size, row.type, row.redop, row.root].join();
  const later = new Map(after.flatMap((result) => result.rows.map((row) => [key(result, row), row] as const)));
  const found = before.flatMap((result) =>
    result.rows.flatMap((row) => {
      const other = later.get(key(result, row));
      if (other === undefined) return [];
      const pairs = [['out-of-place', row.outOfPlace, other.outOfPlace] as const];
      const both = row.inPlace !== null && other.inPlace !== null;
      const inPlace = both ? [['in-place', row.inPlace, other.inPlace] as const] : [];
      return [...pairs, ...inPlace].map(([place, a, b]) => ({
        ...{ operation: result.operation, row, place, before: a, after: b, verdict: verdictOf(a, b) },
      }));
    }),
  );
  if (found.length > 0) return found;
  throw new ShardloopError(
    'BAD_ARGUMENT',
    'bench: expected two files with a size, dtype, reduction, root, backend and number of ranks in common, received ' +
      `${before.map(about).join(', ')} and ${after.map(about).join(', ')}; run both in the same way`,
  );
}

const about = ({ operation, ranks, backend, rows }: BenchResult) =>
  `${operation} on ${ranks} ranks over ${backend} (${rows.length} rows)`;

/** The comparison as a table, and how many rows are slower. */
export function comparisonText(comparisons: readonly Comparison[], names: readonly [string, string]): string {
  const widths = [15, 12, 9, 6, 5, 13, 11, 11, 9];
  const line = (texts: readonly string[]) => texts.map((text, i) => text.padStart(widths[i]!)).join(' ');
  const count = (verdict: Verdict) => comparisons.filter((c) => c.verdict === verdict).length;
  return [
    `# A: ${names[0]}`,
    `# B: ${names[1]}`,
    `# B is faster or slower where the medians differ by more than 5 % and more than the pooled standard deviation`,
    `${line(['# operation', 'size', 'type', 'redop', 'root', 'place', 'A p50(us)', 'B p50(us)', 'B/A'])}  verdict`,
    ...comparisons.map(({ operation, row, place, before, after, verdict }) => {
      const numbers = [before.p50Us.toFixed(2), after.p50Us.toFixed(2), (after.p50Us / before.p50Us).toFixed(3)];
      const head = [operation, String(row.size), row.type, row.redop, String(row.root), place];
      return `${line([...head, ...numbers])}  ${verdict === 'same' ? 'same within noise' : verdict}`;
    }),
    `# ${count('faster')} faster, ${count('slower')} slower, ${count('same')} same within noise`,
  ].join('\n');
}

/** Reads what `--json` wrote, of one operation or of all. Throws BAD_ARGUMENT. */
export function readResults(path: string): BenchResult[] {
  let value: unknown;
  try {
    value = JSON.parse(readFileSync(path, 'utf8'));
  } catch (error) {
    throw unreadable(path, (error as Error).message);
  }
  const results = (value as { results?: unknown } | null)?.results;
  if (!Array.isArray(results) || !results.every(isResult)) throw unreadable(path, describe(value));
  return results;
}

function isResult(value: unknown): value is BenchResult {
  const { operation, rows } = (value ?? {}) as Partial<BenchResult>;
  return (
    typeof operation === 'string' &&
    Array.isArray(rows) &&
    rows.every(({ size, outOfPlace }) => typeof size === 'number' && Number.isFinite(outOfPlace?.p50Us))
  );
}

function unreadable(path: string, received: string): ShardloopError {
  return new ShardloopError(
    'BAD_ARGUMENT',
    `bench: expected ${path} to be a file that \`shardloop bench --json\` wrote, received ${received}; run it again with --json`,
  );
}
