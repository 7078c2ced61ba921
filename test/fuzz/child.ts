// The process that the fuzzer runs in: `node --import tsx child.ts SEED CALLS LOG [ONLY]`. Writes each call into LOG before
// it is made, so that whoever started it can name the call on which the process died; writes the outcome as JSON to LOG.json.
import { openSync, writeFileSync, writeSync } from 'node:fs';
import { setNumThreads } from '../../lib/core/index.js';
import { fuzz } from './bridge.js';

const [seed, calls, log, only] = process.argv.slice(2);
const file = openSync(log!, 'w');
const line = Buffer.alloc(2048, ' ');
setNumThreads(1);
const outcome = fuzz({
  seed: Number(seed),
  calls: Number(calls),
  only: only || undefined,
  announce(call) {
    line.fill(' ');
    line.write(call, 0, 2047, 'utf8');
    writeSync(file, line, 0, 2048, 0);
  },
});
writeFileSync(`${log}.json`, JSON.stringify(outcome)); // ops that print write to stdout
