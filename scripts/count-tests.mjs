// The end of a CI run: every test that failed, and the closing line `N passed, N failed`, from vitest's JSON reports:
//   node scripts/count-tests.mjs REPORT.json...
// A report that is missing, or tells of no test, is a failure: a suite that did not run has proved nothing.
import { readFileSync } from 'node:fs';
import { dirname, relative } from 'node:path';

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
  const counts = ['numPassedTests', 'numFailedTests', 'numPendingTests', 'numTodoTests'].map(
    (key) => report?.[key] ?? 0,
  );
  const [good, bad, pending, todo] = counts.every(Number.isInteger) ? counts : [0, 0, 0, 0];
  passed += good;
  // A file that does not even load makes a run that failed without a failed test.
  failed += good + bad === 0 ? 1 : Math.max(bad, report.success === false ? 1 : 0);
  skipped += pending + todo;
  for (const suite of report?.testResults ?? []) printFailures(suite);
}
if (passed === 0 && failed === 0) failed = 1;
process.stdout.write(`${passed} passed, ${failed} failed${skipped > 0 ? `, ${skipped} skipped` : ''}\n`);
process.exitCode = failed > 0 ? 1 : 0;

/** One suite's failed tests, each with the beginning of its error; its own error where it did not load. */
function printFailures({ name = '', status, message = '', assertionResults = [] }) {
  const file = relative(dirname(import.meta.dirname), name);
  const tests = assertionResults.filter((test) => test.status === 'failed');
  for (const { fullName, failureMessages = [] } of tests) {
    process.stdout.write(`failed: ${file} > ${fullName}\n  ${beginning(failureMessages.join('\n'))}\n`);
  }
  if (status === 'failed' && tests.length === 0) process.stdout.write(`failed: ${file}\n  ${beginning(message)}\n`);
}

/** The first lines of an error, indented to stand below the test's name. */
function beginning(text) {
  return text.trim().split('\n').slice(0, 12).join('\n  ');
}
