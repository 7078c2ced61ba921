// What is written of benchmarks: JSON, CSV and SVG files, and the folder of `shardloop bench all`: report.md with its charts
// and the numbers. Files appear whole or not at all.
import { cpus, hostname, release } from 'node:os';
import { join } from 'node:path';
import { makeFolder } from '../core/folders.js';
import { writeFileAtomic } from '../io/index.js';
import { bandwidthChart } from './chart.js';
import type { BenchPlan } from './options.js';
import type { BenchResult } from './run.js';
import { csvOf, tableFoot, tableHead, tableRow } from './table.js';

/** Files to write; each is left out when it is not named. */
export interface BenchFiles {
  readonly json?: string;
  readonly csv?: string;
  /** An SVG file; of the first of the benchmarks. */
  readonly plot?: string;
}

/** What the JSON file holds. */
export interface BenchReport {
  readonly host: string;
  readonly system: string;
  readonly cpu: string;
  readonly node: string;
  readonly date: string;
  readonly results: readonly BenchResult[];
}

/** The JSON file's content. */
export function reportOf(results: readonly BenchResult[]): BenchReport {
  return {
    host: hostname(),
    system: `${process.platform} ${release()}`,
    cpu: `${cpus()[0]?.model.trim() ?? 'unknown'} x ${cpus().length}`,
    node: process.version,
    date: new Date().toISOString(),
    results,
  };
}

/** Writes the files that are named. */
export async function writeFiles(results: readonly BenchResult[], { json, csv, plot }: BenchFiles): Promise<void> {
  if (json !== undefined) await writeFileAtomic(json, `${JSON.stringify(reportOf(results), null, 2)}\n`);
  if (csv !== undefined) await writeFileAtomic(csv, csvOf(results));
  if (plot !== undefined && results[0] !== undefined) await writeFileAtomic(plot, await bandwidthChart(results[0]));
}

/** Writes report.md, report.json, report.csv and one SVG an operation into a folder. */
export async function writeReport(
  folder: string,
  runs: readonly { readonly plan: BenchPlan; readonly result: BenchResult }[],
): Promise<void> {
  makeFolder(folder);
  const results = runs.map(({ result }) => result);
  await writeFiles(results, { json: join(folder, 'report.json'), csv: join(folder, 'report.csv') });
  for (const result of results) {
    await writeFileAtomic(join(folder, `${result.operation}.svg`), await bandwidthChart(result));
  }
  await writeFileAtomic(join(folder, 'report.md'), markdown(runs));
}

function markdown(runs: readonly { readonly plan: BenchPlan; readonly result: BenchResult }[]): string {
  const results = runs.map(({ result }) => result);
  const { host, system, cpu, node, date } = reportOf(results);
  const rows = results.map(({ operation, averageBusBandwidth, outOfBounds, check, fit }) => {
    const beta = fit?.betaGBs?.toPrecision(3) ?? '-';
    const cells = [fit?.alphaUs.toPrecision(3) ?? '-', beta, averageBusBandwidth.toPrecision(4)];
    return `| [${operation}](#${operation}) | ${cells.join(' | ')} | ${check === 0 ? 'not checked' : outOfBounds} |`;
  });
  const sections = runs.map(({ plan, result }) => {
    const table = [tableHead(plan, result), ...result.rows.map(tableRow), tableFoot(result)].join('\n');
    return `## ${result.operation}\n\n![bus bandwidth](${result.operation}.svg)\n\n\`\`\`text\n${table}\n\`\`\`\n`;
  });
  return [
    `# Collectives on ${results[0]?.ranks} ranks over ${results[0]?.backend}`,
    `${host}, ${system}, ${cpu}, Node ${node}, libtorch ${results[0]?.libtorch}, ${date}`,
    [
      '| operation | alpha (us) | beta (GB/s) | average bus bandwidth (GB/s) | wrong elements |',
      '|---|---|---|---|---|',
      ...rows,
    ].join('\n'),
    ...sections,
  ].join('\n\n');
}
