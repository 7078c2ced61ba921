// Checkpoints: exact content back, the newest one, damage by name, and house-keeping.
import { spawnSync } from 'node:child_process';
import { copyFile, mkdir, mkdtemp, readdir, readFile, rm, truncate, writeFile } from 'node:fs/promises';
import { hostname, tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { type Tensor, tensor } from '../../lib/core/index.js';
import { type Json, latestCheckpoint, listCheckpoints, openCheckpoint, saveCheckpoint } from '../../lib/io/index.js';

let dir: string;
beforeEach(async () => {
  dir = await mkdtemp(join(tmpdir(), 'shardloop-ckpt-'));
});
afterEach(() => rm(dir, { recursive: true, force: true }));

const content = (value = 1, state: Json = { epoch: 1, position: [3, 4], note: 'ü', empty: null }) => ({
  tensors: {
    model: new Map([['w', tensor([value, 2, 3])]]),
    optimizer: new Map([['w.exp_avg', tensor([0.5], { dtype: 'float64' })]]),
    'random.rank-0': new Map<string, Tensor>([['state', tensor(new Uint8Array([1, 2, 255]))]]),
  },
  state,
});

describe('a checkpoint', () => {
  it('gives back tensors and state exactly', async () => {
    const path = await saveCheckpoint(dir, 7, content());
    expect(path).toBe(join(dir, 'checkpoint-7'));
    const checkpoint = await openCheckpoint(path);
    expect(checkpoint.step).toBe(7);
    expect(checkpoint.state).toEqual(content().state);
    expect([...checkpoint.groups].sort()).toEqual(['model', 'optimizer', 'random.rank-0']);
    expect(checkpoint.tensors('model').get('w')!.toArray()).toEqual([1, 2, 3]);
    expect(checkpoint.tensors('optimizer').get('w.exp_avg')!.dtype).toBe('float64');
    expect(checkpoint.tensors('random.rank-0').get('state')!.toArray()).toEqual([1, 2, 255]);
    expect(() => checkpoint.tensors('other')).toThrow(/expected a group of tensors "other", it holds model/);
    checkpoint.close();
  });

  it('of the same step is replaced, and older ones go beyond the limit', async () => {
    for (const step of [5, 10, 100]) await saveCheckpoint(dir, step, content(step));
    await saveCheckpoint(dir, 100, content(42), { saveTotalLimit: 2 });
    expect((await readdir(dir)).sort()).toEqual(['checkpoint-10', 'checkpoint-100']);
    const checkpoint = await openCheckpoint((await latestCheckpoint(dir))!);
    expect(checkpoint.tensors('model').get('w')!.toArray()).toEqual([42, 2, 3]);
  });

  it('that fails in the middle leaves the older one, and no rubbish', async () => {
    await saveCheckpoint(dir, 1, content());
    const gone = tensor([1]);
    gone.dispose();
    const broken = { tensors: { model: new Map([['w', tensor([1])]]), other: new Map([['x', gone]]) }, state: null };
    await expect(saveCheckpoint(dir, 2, broken)).rejects.toMatchObject({ code: 'TENSOR_DISPOSED' });
    expect(await readdir(dir)).toEqual(['checkpoint-1']);
    await openCheckpoint(join(dir, 'checkpoint-1'));
  });

  it.each([
    ['a step', -1, content(), {}],
    ['a limit', 1, content(), { saveTotalLimit: 0 }],
    ['a group name', 1, { tensors: { '../x': new Map() }, state: null }, {}],
    ['NaN in the state', 1, content(1, { loss: Number.NaN }), {}],
    ['a class in the state', 1, content(1, { map: new Map() as unknown as Json }), {}],
    ['a bigint in the state', 1, content(1, [1n as unknown as Json]), {}],
  ])('refuses %s', async (_, step, what, options) => {
    await expect(saveCheckpoint(dir, step, what, options)).rejects.toMatchObject({ code: 'BAD_ARGUMENT' });
    expect(await readdir(dir)).toEqual([]);
  });
});

describe('the latest checkpoint', () => {
  it('is the complete one of the highest step', async () => {
    expect(await latestCheckpoint(join(dir, 'none'))).toBeNull();
    expect(await latestCheckpoint(dir)).toBeNull();
    for (const step of [9, 10]) await saveCheckpoint(dir, step, content());
    await mkdir(join(dir, 'checkpoint-11'));
    await mkdir(join(dir, 'checkpoint-x'));
    await writeFile(join(dir, 'checkpoint-12'), '');
    const host = hostname().replace(/[^A-Za-z0-9-]/g, '-');
    await mkdir(join(dir, `.checkpoint-13.tmp-${host}-${spawnSync('true').pid}-00000000`));
    expect(await latestCheckpoint(dir)).toBe(join(dir, 'checkpoint-10'));
    expect(await listCheckpoints(dir)).toEqual([join(dir, 'checkpoint-9'), join(dir, 'checkpoint-10')]);
    expect((await readdir(dir)).filter((name) => name.startsWith('.'))).toEqual([]);
  });
});

describe('a damaged checkpoint is refused by name', () => {
  const damage: [string, (path: string) => Promise<unknown>, RegExp][] = [
    [
      'a part is missing',
      (path) => rm(join(path, 'part-00000.safetensors')),
      /part-00000\.safetensors: expected a file of \d+ bytes, it is missing/,
    ],
    [
      'a part is cut',
      (path) => truncate(join(path, 'part-00000.safetensors'), 30),
      /part-00000\.safetensors: expected \d+ bytes, received 30/,
    ],
    [
      'a bit is flipped',
      (path) => flip(join(path, 'part-00000.safetensors')),
      /part-00000\.safetensors: its content is not what was written/,
    ],
    ['the state is changed', (path) => flip(join(path, 'state.json')), /state\.json: its content/],
    ['the index is changed', (path) => flip(join(path, 'index.json')), /index\.json: its content/],
    ['the manifest is changed', (path) => flip(join(path, 'manifest.json')), /manifest\.json is not the one/],
    ['the manifest is missing', (path) => rm(join(path, 'manifest.json')), /expected the file manifest\.json/],
    ['the marker is missing', (path) => rm(join(path, 'COMMITTED')), /expected the file COMMITTED.*incomplete/],
  ];
  it.each(damage)('%s', async (_, harm, message) => {
    const path = await saveCheckpoint(dir, 3, content());
    await harm(path);
    const failure = openCheckpoint(path);
    await expect(failure).rejects.toMatchObject({ code: 'BAD_CHECKPOINT' });
    await expect(failure).rejects.toThrow(message);
  });

  it('any byte of any file is another', async () => {
    const path = await saveCheckpoint(dir, 3, content());
    for (const name of await readdir(path)) {
      const bytes = await readFile(join(path, name));
      for (let i = 0; i < bytes.byteLength; i++) {
        bytes[i]! ^= 1 << (i % 7);
        await writeFile(join(path, name), bytes);
        const code = await openCheckpoint(path).then(
          () => 'opened',
          (error: { code: string }) => error.code,
        );
        expect(code, `byte ${i} of ${name}`).toBe('BAD_CHECKPOINT');
        bytes[i]! ^= 1 << (i % 7);
      }
      await writeFile(join(path, name), bytes);
    }
    await openCheckpoint(path);
  });

  it('a part comes from another checkpoint', async () => {
    const one = await saveCheckpoint(dir, 1, content(1));
    const two = await saveCheckpoint(dir, 2, content(2));
    await copyFile(join(one, 'part-00000.safetensors'), join(two, 'part-00000.safetensors'));
    await expect(openCheckpoint(two)).rejects.toThrow(/part-00000\.safetensors: its content/);
  });

  async function flip(path: string): Promise<void> {
    const bytes = await readFile(path);
    bytes[bytes.length - 2]! ^= 1;
    await writeFile(path, bytes);
  }
});
