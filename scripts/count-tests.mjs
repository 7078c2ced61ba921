// The closing line of a CI run, `N passed, N failed`, summed from vitest's JSON reports:
//   node scripts/count-tests.mjs REPORT.json...
// A report that is missing, or tells of no test, is a failure: a suite that did not run has proved nothing.
import { readFileSync } from 'node:fs';

let passed = 0;
let failed = 0;
let skipped = 0;
for (const file of process.argv.slice(2)) {
  let report = null;
  try {
    report = JSON.parse(readFileSync(file, 'utf8'));
  } catch (error) {
    process.stdout.write(`${file}: ${error.message}\n`);
  }
  const ran = (report?.numPassedTests ?? 0) + (report?.numFailedTests ?? 0);
  passed += report?.numPassedTests ?? 0;
  // A file that does not even load counts as a failed suite without a failed test.
  failed += ran === 0 ? 1 : Math.max(report.numFailedTests, report.numFailedTestSuites > 0 && !report.success ? 1 : 0);
  skipped += (report?.numPendingTests ?? 0) + (report?.numTodoTests ?? 0);
}
if (passed === 0 && failed === 0) failed = 1;
process.stdout.write(`${passed} passed, ${failed} failed${skipped > 0 ? `, ${skipped} skipped` : ''}\n`);
process.exitCode = failed > 0 ? 1 : 0;
