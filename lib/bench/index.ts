// What lib/bench offers to the command: plans, runs, tables, files, comparisons. Not here: starting ranks.
export { type Comparison, compareResults, comparisonText, readResults, type Verdict } from './compare.js';
export { OPERATIONS, type OperationName } from './operations.js';
export { type BenchOptions, type BenchPlan, planBench, rootsOf } from './options.js';
export { type BenchFiles, type BenchReport, writeFiles, writeReport } from './report.js';
export { type BenchResult, type Row, runBench } from './run.js';
export { tableFoot, tableHead, tableRow } from './table.js';
