// The benchmarks by name, and what `npm run bench` runs: the named ones, or all. They measure the built package (dist).
// --json prints a report of each instead of tables; --page FILE writes the figures into their blocks of a page.
import { existsSync, readFileSync } from 'node:fs';
import { parseArgs } from 'node:util';
import { checkpoint } from './checkpoint.js';
import { collectives } from './collectives.js';
import { dispatch } from './dispatch.js';
import { generation } from './generation.js';
import { printVerdicts, type Report } from './harness.js';
import { memory } from './memory.js';
import { optimizer } from './optimizer.js';
import { overlap } from './overlap.js';
import { writePage } from './page.js';
import { startUp } from './start-up.js';
import { step } from './step.js';
import { zero } from './zero.js';

const BENCHMARKS: Record<string, (json: boolean) => Promise<Report>> = {
  dispatch,
  collectives,
  optimizer,
  zero,
  checkpoint,
  memory,
  overlap,
  step,
  generation,
  start: startUp,
};

const usage = `usage: npm run bench [-- ${Object.keys(BENCHMARKS).join(' | ')} ...] [--json] [--page FILE]`;

/** The benchmarks and options of a command line; throws on what it does not know. */
function read(line: string[]) {
  const options = { json: { type: 'boolean', default: false }, page: { type: 'string' } } as const;
  const { values, positionals } = parseArgs({ args: line, options, allowPositionals: true });
  const names = positionals.length > 0 ? positionals : Object.keys(BENCHMARKS);
  for (const name of names) if (!(name in BENCHMARKS)) throw new Error(`there is no benchmark ${name}`);
  if (values.page !== undefined && !existsSync(values.page)) throw new Error(`there is no page ${values.page}`);
  for (const name of values.page === undefined ? [] : names) {
    // Before the hours that they take.
    if (!readFileSync(values.page!, 'utf8').includes(`<!-- ${name} -->`))
      throw new Error(`${values.page} has no block <!-- ${name} -->`);
  }
  return { ...values, names };
}

let asked: ReturnType<typeof read> | null = null;
try {
  asked = read(process.argv.slice(2));
} catch (error) {
  console.error(`${(error as Error).message}\n${usage}`);
  process.exitCode = 2;
}
if (asked) {
  const reports: Report[] = [];
  for (const name of asked.names) {
    const report = await BENCHMARKS[name]!(asked.json);
    reports.push(report);
    if (asked.page !== undefined) writePage(asked.page, [report]); // one by one: a failure keeps those before it
  }
  if (!asked.json && reports.length > 1) printVerdicts(reports);
}
