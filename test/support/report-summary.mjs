// Ends a test run: `node report-summary.mjs REPORT STATUS` prints "N passed, N failed" from the JSON report of
// vitest and exits 0 only if everything ran and passed. STATUS is vitest's own exit status.
import { readFileSync } from 'node:fs';

const [reportPath, status] = process.argv.slice(2);

function count() {
  let report;
  try {
    report = JSON.parse(readFileSync(reportPath, 'utf8'));
  } catch {
    return { passed: 0, failed: 1 };
  }
  const passed = report.numPassedTests;
  // A file that does not load, or whose afterAll fails, fails without a failed test of its own.
  const failedFiles = report.testResults.filter(
    ({ status: result, assertionResults }) =>
      result === 'failed' && assertionResults.every((test) => test.status !== 'failed'),
  ).length;
  // A test that does not run proves nothing.
  const failed = report.numFailedTests + failedFiles + report.numPendingTests + report.numTodoTests;
  return { passed, failed };
}

let { passed, failed } = count();
if (failed === 0 && (passed === 0 || status !== '0')) failed = 1;
process.stdout.write(`${passed} passed, ${failed} failed\n`);
process.exitCode = failed === 0 ? 0 : 1;
