// A run whose optimizer lives in files is the run whose optimizer lives in memory; and what --offload asks for.
import { rmSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { losses, makeTiny, type Tiny, tune } from './tiny.js';

let tiny: Tiny;
beforeAll(async () => {
  tiny = await makeTiny();
});
afterAll(() => rmSync(tiny.folder, { recursive: true }));

describe('offloadFolder', () => {
  it.each(['fp32', 'bf16'] as const)(
    'changes no bit of a run in %s, interrupted or not, and takes no memory',
    async (precision) => {
      const common = { method: 'full', precision, maxSteps: 4 } as const;
      const offloadFolder = join(tiny.folder, 'states', precision);
      const inMemory = await tune(tiny, common);
      const inFiles = await tune(tiny, { ...common, offloadFolder });
      expect(losses(inFiles.out)).toEqual(losses(inMemory.out));
      // AdamW: two moments in fp32, and for bf16 a master. What else the process frees meanwhile is booked there too.
      const bytes = inMemory.summary.trainable * (precision === 'bf16' ? 12 : 8);
      expect(inMemory.summary.memory!.optimizer / bytes).toBeGreaterThan(0.95);
      expect(inFiles.summary.memory!.optimizer / bytes).toBeLessThan(0.05);
      const out = join(tiny.folder, `resumed-${precision}`);
      await tune(tiny, { ...common, offloadFolder, out, saveSteps: 2 });
      rmSync(join(out, 'model'), { recursive: true });
      await tune(tiny, { ...common, offloadFolder, out, resume: join(out, 'checkpoint-2') });
      expect(losses(out)).toEqual(losses(inMemory.out));
    },
  );
});

describe('offload', () => {
  it.each([
    [{ offload: 'optimizer' }, 'offload works on shards: expected zero 1, 2 or 3; received zero 0'],
    [{ offload: 'parameters', zero: 2 }, 'offload parameters: expected zero 3; received zero 2'],
    [
      { offload: 'optimizer', zero: 1, device: 'cpu' },
      'offload (offload_optimizer, offload_param) moves memory from a CUDA device to the host: expected device cuda; received device cpu; on the CPU leave offload out, or use offloadFolder alone',
    ],
    [
      { offload: 'optimizer', zero: 1, device: 'auto' },
      'expected device cuda; received device auto, which takes the CPU, as no CUDA device can be used here (`shardloop doctor` says why); on the CPU leave offload out, or use offloadFolder alone',
    ],
  ] as const)('says what it needs: %o', async (options, message) => {
    await expect(tune(tiny, { ...options, maxSteps: 1 })).rejects.toThrow(message);
  });

  it('says that the folder of files cannot be used before anything is started', async () => {
    const offloadFolder = join(tiny.model, 'config.json');
    await expect(tune(tiny, { offloadFolder, maxSteps: 1 })).rejects.toThrow(
      `offloadFolder: expected a folder to write, ${offloadFolder} is a file`,
    );
    const below = join(offloadFolder, 'below');
    await expect(tune(tiny, { offloadFolder: below, maxSteps: 1 })).rejects.toThrow(
      /^offloadFolder: expected a folder to write to, received ENOTDIR/,
    );
  });
});
