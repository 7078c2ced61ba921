// The scripts of a clone: when npm ci runs, what wrong flags say, and how CI counts its tests.
import { spawnSync } from 'node:child_process';
import { rmSync } from 'node:fs';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { packageRoot } from '../../lib/setup/paths.js';
import { put, temporary } from './fakes.js';

const scripts = join(packageRoot(), 'scripts');
const { dependenciesAreFresh } = (await import(pathToFileURL(join(scripts, 'setup.mjs')).href)) as {
  dependenciesAreFresh: (folder?: string) => boolean;
};
let folder = '';
beforeEach(() => {
  folder = temporary();
});
afterEach(() => rmSync(folder, { recursive: true, force: true }));

describe('dependencies are fresh', () => {
  const lock = (packages: object) => put(join(folder, 'package-lock.json'), JSON.stringify({ packages }));
  const have = (packages: object) =>
    put(join(folder, 'node_modules', '.package-lock.json'), JSON.stringify({ packages }));

  it('when npm has finished installing the versions of the lock file', () => {
    lock({
      '': { name: 'x' },
      'node_modules/a': { version: '1.0.0' },
      'node_modules/b': { version: '2.0.0', optional: true },
    });
    expect(dependenciesAreFresh(folder)).toBe(false); // nothing is installed
    have({ 'node_modules/a': { version: '1.0.0' } });
    expect(dependenciesAreFresh(folder)).toBe(true); // b is for another platform
    have({ 'node_modules/a': { version: '1.0.1' } });
    expect(dependenciesAreFresh(folder)).toBe(false);
    have({});
    expect(dependenciesAreFresh(folder)).toBe(false);
  });

  it('in this clone', () => {
    expect(dependenciesAreFresh()).toBe(true);
  });
});

describe('the commands', () => {
  const run = (script: string, ...args: string[]) =>
    spawnSync(process.execPath, [join(scripts, script), ...args], { encoding: 'utf8' });

  it('refuse a flag that they do not know', () => {
    const ran = run('setup.mjs', '--nativ');
    expect(ran.status).toBe(2);
    expect(ran.stderr).toMatch(/unknown flag --nativ; known: --native --cuda .*--libtorch/);
    expect(run('setup.mjs', '--libtorch').status).toBe(2);
    const versions = run('check-versions.mjs');
    expect(versions.status).toBe(2);
    expect(versions.stderr).toMatch(/usage: .*VERSION/);
  });

  it('count the tests that ran, and take a report that is missing for a failure', () => {
    const report = (name: string, passed: number, failed: number) =>
      put(
        join(folder, name),
        JSON.stringify({
          numPassedTests: passed,
          numFailedTests: failed,
          numFailedTestSuites: failed,
          success: failed === 0,
        }),
      );
    const count = (...files: string[]) => run('count-tests.mjs', ...files);
    const good = count(report('a.json', 5, 0), report('b.json', 7, 0));
    expect(good.stdout.trim().split('\n').at(-1)).toBe('12 passed, 0 failed');
    expect(good.status).toBe(0);
    const bad = count(report('a.json', 5, 0), report('c.json', 1, 2));
    expect(bad.stdout).toContain('6 passed, 2 failed');
    expect(bad.status).toBe(1);
    const failure = { fullName: 'adds', status: 'failed', failureMessages: ['Error: 3 is not 4\n    at a place'] };
    const suites = [
      { name: join(packageRoot(), 'test/a.test.ts'), status: 'failed', message: '', assertionResults: [failure] },
      {
        name: join(packageRoot(), 'test/b.test.ts'),
        status: 'failed',
        message: 'no such module',
        assertionResults: [],
      },
    ];
    const named = count(put(join(folder, 'd.json'), JSON.stringify({ numFailedTests: 1, testResults: suites })));
    expect(named.stdout).toContain('failed: test/a.test.ts > adds\n  Error: 3 is not 4\n');
    expect(named.stdout).toContain('failed: test/b.test.ts\n  no such module\n');
    expect(count(join(folder, 'none.json')).status).toBe(1);
    expect(count(report('empty.json', 0, 0)).status).toBe(1);
    for (const odd of [{ numPassedTests: '3', success: true }, { numPassedTests: 3, success: false }, null]) {
      expect(count(put(join(folder, 'odd.json'), JSON.stringify(odd))).status).toBe(1);
    }
    expect(count().status).toBe(1);
  });
});
