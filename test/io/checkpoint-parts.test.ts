// Checkpoints of several writers: any elements back from whichever files hold them, what does not fit together is refused,
// parts written in the background, and older formats.
import { readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { copyFile, mkdtemp, readdir, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { arange, call, empty, ops, type Tensor, tensor } from '../../lib/core/index.js';
import {
  beginCheckpoint,
  commitCheckpoint,
  openCheckpoint,
  type PartReceipt,
  planPart,
  saveCheckpoint,
  type TensorPart,
  writePart,
  writePartInBackground,
  writeSafetensors,
} from '../../lib/io/index.js';
import { toFormat1, toFormat2 } from './older-formats.js';

let dir: string;
beforeEach(async () => {
  dir = await mkdtemp(join(tmpdir(), 'shardloop-parts-'));
});
afterEach(() => rm(dir, { recursive: true, force: true }));

/** Elements [start, end) of a (3, 4) tensor whose elements are their own places. */
const part = (start: number, end: number, shape = [3, 4]): TensorPart => ({
  ...{ tensor: arange(start, end, 1, { dtype: 'float32' }), shape, start },
});
const groups = (...parts: [string, TensorPart][]) => ({ model: new Map(parts) });

/** A checkpoint of these writers' groups. */
async function write(...writers: ReturnType<typeof groups>[]): Promise<string> {
  const pending = await beginCheckpoint(dir, 1);
  const receipts: PartReceipt[] = [];
  for (const [i, content] of writers.entries()) receipts.push(await writePart(pending.path, planPart(i, content)));
  await commitCheckpoint(pending, { step: 1, receipts, state: null });
  return join(dir, 'checkpoint-1');
}
const values = (t: Tensor) => [...(t.dataSync() as Float32Array)];

describe('a checkpoint of several writers', () => {
  it('gives back whole tensors and any elements of them', async () => {
    const none = { tensor: empty([0, 4]), shape: [0, 4], start: 0 };
    const path = await write(
      groups(['w', part(7, 12)], ['none', none]),
      groups(['w', part(0, 3)]),
      groups(['w', part(3, 7)]),
    );
    const checkpoint = await openCheckpoint(path);
    expect(checkpoint.tensor('model', 'w').toArray()).toEqual([
      [0, 1, 2, 3],
      [4, 5, 6, 7],
      [8, 9, 10, 11],
    ]);
    expect(checkpoint.tensor('model', 'none').shape).toEqual([0, 4]);
    for (const [start, end] of [
      [0, 3],
      [1, 2],
      [2, 8],
      [3, 7],
      [6, 12],
      [5, 5],
      [12, 12],
    ] as const) {
      const expected = Array.from({ length: end - start }, (_, i) => start + i);
      expect(values(checkpoint.elements('model', 'w', start, end))).toEqual(expected);
    }
    checkpoint.release();
    expect(values(checkpoint.elements('model', 'w', 4, 6))).toEqual([4, 5]);
    for (const [start, end] of [
      [-1, 2],
      [3, 2],
      [0, 13],
    ] as const)
      expect(() => checkpoint.elements('model', 'w', start, end)).toThrow(/expected elements within 12/);
    expect(() => checkpoint.tensor('model', 'x')).toThrow(/expected a tensor "x" in the group "model"/);
    checkpoint.close();
  });

  it.each([
    ['a hole', [part(0, 3), part(4, 12)], /model w: elements 3 to 4 are in no file/],
    ['an overlap', [part(0, 5), part(4, 12)], /model w: elements from 4 on are in several files, part-00001/],
    ['a missing end', [part(0, 5), part(5, 11)], /model w: expected 12 elements, the files hold 11/],
    ['another shape', [part(0, 5), part(5, 12, [4, 3])], /part of float32 \[3, 4\], .* part of float32 \[4, 3\]/],
  ])('with %s is not written', async (_, parts, message) => {
    const failure = write(...parts.map((p) => groups(['w', p])));
    await expect(failure).rejects.toMatchObject({ code: 'BAD_CHECKPOINT', message: expect.stringMatching(message) });
    expect(await readdir(dir)).toEqual([]);
  });

  it('says that the folder is not shared when a part is not there', async () => {
    const pending = await beginCheckpoint(dir, 1);
    const elsewhere = await mkdtemp(join(tmpdir(), 'shardloop-parts-'));
    const receipt = await writePart(elsewhere, planPart(1, groups(['w', part(0, 12)])));
    await rm(elsewhere, { recursive: true });
    const failure = commitCheckpoint(pending, { step: 1, receipts: [receipt], state: null });
    await expect(failure).rejects.toThrow(/part-00001.*it is not there; .* must be one that all hosts share/);
    expect(await readdir(dir)).toEqual([]);
  });

  it('shares the comparing of sums out, and refuses a foreign part by name', async () => {
    const path = await write(groups(['w', part(0, 6)]), groups(['w', part(6, 12)]));
    await copyFile(join(path, 'part-00000.safetensors'), join(path, 'part-00001.safetensors'));
    const failures = [];
    for (const own of [0, 1, 2])
      failures.push(await openCheckpoint(path, { share: [own, 3] }).catch((e: Error) => e.message));
    const names = failures.map((failure) => /part-0000\d|another checkpoint/.exec(String(failure))?.[0]);
    // One compares the sum; the others see at least that the tensor in it is not the one that is promised.
    expect(names.filter((name) => name !== undefined)).not.toEqual([]);
    await expect(openCheckpoint(path)).rejects.toThrow(/part-00001\.safetensors: its content is not what was written/);
  });

  it('of format 1 is read alike', async () => {
    const tensors = {
      model: new Map([
        [
          'w',
          tensor([
            [1, 2],
            [3, 4],
          ]),
        ],
      ]),
      optimizer: new Map<string, Tensor>(),
    };
    const path = await saveCheckpoint(dir, 3, { tensors, state: { epoch: 1 } });
    const before = await openCheckpoint(path);
    expect(before.specs('optimizer').size).toBe(0);
    await toFormat1(path);
    expect((await readdir(path)).sort()).toEqual([
      'COMMITTED',
      'manifest.json',
      'model.safetensors',
      'optimizer.safetensors',
      'state.json',
    ]);
    const checkpoint = await openCheckpoint(path);
    expect([checkpoint.step, checkpoint.state, checkpoint.groups]).toEqual([3, { epoch: 1 }, ['model', 'optimizer']]);
    expect(values(checkpoint.elements('model', 'w', 1, 3))).toEqual([2, 3]);
    expect(checkpoint.specs('model').get('w')).toMatchObject({ dtype: 'float32', shape: [2, 2] });
  });
});

describe('format 2', () => {
  it('is read alike, and its SHA-256 are compared', async () => {
    const path = await write(groups(['w', part(0, 6)]), groups(['w', part(6, 12)]));
    toFormat2(path);
    expect(values((await openCheckpoint(path)).elements('model', 'w', 4, 8))).toEqual([4, 5, 6, 7]);
    const file = join(path, 'part-00001.safetensors');
    const bytes = readFileSync(file);
    bytes[bytes.length - 3]! ^= 1;
    writeFileSync(file, bytes);
    await expect(openCheckpoint(path)).rejects.toThrow(/part-00001.*not what was written \(SHA-256 differs\)/);
  });
});

describe('a part in the background', () => {
  it('holds what the tensors were, whatever becomes of them meanwhile', async () => {
    const pending = await beginCheckpoint(dir, 1);
    const w = part(0, 12);
    const { written } = writePartInBackground(pending.path, planPart(0, groups(['w', w])));
    ops.zero_(w.tensor);
    w.tensor.dispose();
    await commitCheckpoint(pending, { step: 1, receipts: [await written], state: null });
    const checkpoint = await openCheckpoint(join(dir, 'checkpoint-1'));
    expect(values(checkpoint.elements('model', 'w', 9, 12))).toEqual([9, 10, 11]);
  });

  it('goes no faster than it may, and can be stopped', async () => {
    const plan = planPart(0, groups(['w', part(0, 300_000, [300_000])])); // 1.2 MB
    const start = performance.now();
    await writePartInBackground(dir, plan, { throttleMb: 2 }).written;
    expect(performance.now() - start).toBeGreaterThan(500);
    const slow = writePartInBackground(dir, { ...plan, file: 'slow' }, { throttleMb: 0.1 });
    await slow.stop();
    await expect(slow.written).rejects.toThrow(/slow was stopped/);
    expect(await readdir(dir)).not.toContain('slow');
    expect(() => writePartInBackground(dir, plan, { throttleMb: 0 })).toThrow(/throttleMb: expected a positive number/);
  });

  it('stopped behind its end does not stop the next one', async () => {
    const plan = planPart(0, groups(['w', part(0, 12)]));
    const first = writePartInBackground(dir, plan);
    await first.written;
    const second = writePartInBackground(dir, { ...plan, file: 'second' });
    await first.stop();
    await second.written;
    expect(await readdir(dir)).toContain('second');
  });

  it.runIf(process.platform === 'linux')('is written by a thread that gives way to training', async () => {
    const plan = planPart(0, groups(['w', part(0, 300_000, [300_000])]));
    const slow = writePartInBackground(dir, plan, { throttleMb: 2 });
    const nice = (id: string) => {
      const text = readFileSync(`/proc/self/task/${id}/stat`, 'utf8');
      return text.slice(text.lastIndexOf(')') + 2).split(' ')[16]; // the 19th field
    };
    await vi.waitFor(() => expect(readdirSync('/proc/self/task').map(nice)).toContain('19'));
    expect(nice(String(process.pid))).not.toBe('19');
    await slow.written;
  });

  it('that cannot be written says why', async () => {
    writeFileSync(join(dir, 'file'), '');
    const { written } = writePartInBackground(join(dir, 'file'), planPart(0, groups(['w', part(0, 12)])));
    await expect(written).rejects.toMatchObject({ code: expect.stringMatching(/ENOTDIR|EEXIST/) });
  });
});

describe('a tensor whose memory was released', () => {
  it('is refused by name', async () => {
    const t = arange(0, 12, 1, { dtype: 'float32' });
    call('shardloop::resize_storage_', t, 0);
    const message = /tensor "w": expected \[12\] in memory, received one that was released; .* strategy\.whole\(\)/;
    await expect(writeSafetensors(join(dir, 'x.safetensors'), new Map([['w', t]]))).rejects.toThrow(message);
    const plan = { ...planPart(0, {}), tensors: new Map([['w', t]]) };
    expect(() => writePartInBackground(dir, plan)).toThrow(message);
    expect(await readdir(dir)).toEqual([]);
  });
});
