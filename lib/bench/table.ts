// A benchmark as text: nccl-tests' table, line by line as the rows come, and CSV.
import type { Measurement } from './measure.js';
import type { BenchPlan } from './options.js';
import type { BenchResult, Row } from './run.js';
import { fitText } from './statistics.js';

const WIDTHS = [12, 12, 8, 6, 6];
const PLACE = [9, 7, 7, 7];
const place = (texts: readonly string[]) => texts.map((text, i) => text.padStart(PLACE[i]!)).join(' ');

/** What stands above the rows. */
export function tableHead(plan: BenchPlan, about: { ranks: number; backend: string }): string {
  const line = (...texts: string[]) => `#${texts.map((text, i) => text.padStart(WIDTHS[i]!)).join(' ')}`;
  const blank = line('', '', '', '', '');
  const names = ['time', 'algbw', 'busbw', '#wrong'];
  const units = ['(us)', '(GB/s)', '(GB/s)', ''];
  return [
    `# shardloop bench ${plan.operation}: ${about.ranks} ${about.ranks === 1 ? 'rank' : 'ranks'}, ${about.backend}; ${plan.warmupIters} warm-up and ${plan.iters} timed iterations`,
    `# time: the average over the iterations on the slowest rank; GB = 10^9 bytes`,
    '#',
    `${blank}  ${'out-of-place'.padStart(22).padEnd(33)}  ${'in-place'.padStart(20)}`,
    `${line('size', 'count', 'type', 'redop', 'root')}  ${place(names)}  ${place(names)}`,
    `${line('(B)', '(elements)', '', '', '')}  ${place(units)}  ${place(units)}`.trimEnd(),
  ].join('\n');
}

/** One row. */
export function tableRow({ size, count, type, redop, root, outOfPlace, inPlace }: Row): string {
  const head = [size, count, type, redop, root].map((value, i) => String(value).padStart(WIDTHS[i]!)).join(' ');
  return ` ${head}  ${measured(outOfPlace)}  ${measured(inPlace)}`;
}

function measured(m: Measurement | null): string {
  if (m === null) return place(['N/A', 'N/A', 'N/A', 'N/A']);
  return place([digits(m.timeUs), bandwidth(m.algbw), bandwidth(m.busbw), m.wrong === null ? 'N/A' : String(m.wrong)]);
}

/** Four digits, as far as the whole number allows. */
function digits(value: number): string {
  return value >= 1000 ? value.toFixed(0) : value.toFixed(value >= 100 ? 1 : 2);
}

/** GB/s; small sizes show more places than nccl-tests gives them. */
function bandwidth(value: number): string {
  return value.toFixed(value < 1 ? 4 : 2);
}

/** What stands below the rows. */
export function tableFoot(result: BenchResult): string {
  const { outOfBounds, averageBusBandwidth, fit, check } = result;
  const verdict = outOfBounds === 0 ? 'OK' : 'FAILED';
  return [
    check === 0 ? '# Out of bounds values : not checked' : `# Out of bounds values : ${outOfBounds} ${verdict}`,
    `# Avg bus bandwidth    : ${averageBusBandwidth.toPrecision(6)}`,
    fitText(fit),
  ].join('\n');
}

/** The rows of benchmarks as CSV, one line a row and place. */
export function csvOf(results: readonly BenchResult[]): string {
  const lines = [
    'operation,ranks,backend,size,count,type,redop,root,place,time_us,algbw,busbw,wrong,p50_us,p99_us,stdev_us',
  ];
  for (const { operation, ranks, backend, rows } of results) {
    for (const { size, count, type, redop, root, outOfPlace, inPlace } of rows) {
      for (const [name, m] of [['out_of_place', outOfPlace] as const, ['in_place', inPlace] as const]) {
        if (m === null) continue;
        const head = [operation, ranks, backend, size, count, type, redop, root, name];
        lines.push([...head, m.timeUs, m.algbw, m.busbw, m.wrong ?? '', m.p50Us, m.p99Us, m.stdevUs].join(','));
      }
    }
  }
  return `${lines.join('\n')}\n`;
}
