// docs/performance.md, the page of the last figures: each benchmark has a block there, between `<!-- NAME -->` and
// `<!-- end of NAME -->`, which a run with `--page FILE` writes anew. The text around the blocks is written by hand.
import { readFileSync, writeFileSync } from 'node:fs';
import { type Report, verdictOf } from './harness.js';

/** The page with the report's block replaced. Throws where the page has no block of that name. */
export function withBlock(page: string, report: Report, date: string): string {
  const [begin, end] = [`<!-- ${report.benchmark} -->`, `<!-- end of ${report.benchmark} -->`];
  const [from, to] = [page.indexOf(begin), page.indexOf(end)];
  if (from < 0 || to < from) throw new Error(`expected a page with ${begin} and ${end} in it, found no such block`);
  const lines = [
    `${date}, ${report.cpu}, ${report.cores} cores, Node ${report.node}, libtorch ${report.libtorch}${report.rounds > 0 ? `, ${report.rounds} rounds` : ''}.`,
    '',
    '| | measured | goal | |',
    '|---|---|---|---|',
    ...Object.entries(report.ratios).map(([name, value]) => {
      const goal = report.goals[name];
      const [text, met] = goal ? verdictOf(value, goal) : ['', undefined];
      return `| ${name} | ${digits(value)} | ${text} | ${met === undefined ? '' : met ? 'met' : '**missed**'} |`;
    }),
  ];
  return `${page.slice(0, from)}${begin}\n${lines.join('\n')}\n${page.slice(to)}`;
}

/** Writes the blocks of these reports into the page. */
export function writePage(file: string, reports: readonly Report[]): void {
  const date = new Date().toISOString().slice(0, 10);
  const page = reports.reduce((text, report) => withBlock(text, report, date), readFileSync(file, 'utf8'));
  writeFileSync(file, page);
}

/** Two digits behind the point of a ratio, none of a large number. */
function digits(value: number): string {
  return value.toLocaleString('en-US', {
    maximumFractionDigits: value < 100 ? 2 : 0,
    minimumFractionDigits: value < 100 ? 2 : 0,
  });
}
