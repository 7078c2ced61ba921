// Promise: what escapes all scopes and is forgotten is freed by the finalization net, between turns of the event loop, and
// V8 knows how much memory its objects hold.
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { expect, test } from 'vitest';
import { memory, ones } from '../../lib/core/index.js';

setFlagsFromString('--expose-gc');
const gc = runInNewContext('gc') as () => void;
const turn = () => new Promise((resolve) => setTimeout(resolve, 5));

async function settled(below: number): Promise<number> {
  for (let i = 0; i < 50 && memory.stats().handles > below; i++) {
    gc();
    await turn();
  }
  return memory.stats().handles;
}

test('a thousand forgotten tensors are freed', async () => {
  const before = memory.stats().handles;
  for (let i = 0; i < 1000; i++) ones([10]).add(i);
  expect(memory.stats().handles).toBe(before + 2000);
  expect(await settled(before)).toBe(before);
});

test('the garbage collector is told of the bytes and dropped again', async () => {
  const base = process.memoryUsage().external;
  const big = ones([1 << 20]);
  expect(process.memoryUsage().external - base).toBeGreaterThanOrEqual(4 << 20);
  big.dispose();
  expect(process.memoryUsage().external - base).toBeLessThan(1 << 20);
});
