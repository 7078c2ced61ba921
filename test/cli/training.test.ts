// The commands as users start them: child processes of dist/, one rank and two, stopped and resumed.
import { once } from 'node:events';
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { type AddressInfo, connect, createServer } from 'node:net';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { freePort } from '../dist/ranks.js';
import { losses, makeTiny, metricsOf, type Tiny } from '../train/tiny.js';
import { type Ended, shardloop } from './run.js';

let tiny: Tiny;
let runs = 0;
beforeAll(async () => {
  tiny = await makeTiny();
});
afterAll(() => rmSync(tiny.folder, { recursive: true }));

/** Whether somebody listens on the port. */
async function answers(port: number): Promise<boolean> {
  const socket = connect(port, '127.0.0.1');
  try {
    await once(socket, 'connect');
    return true;
  } catch {
    return false;
  } finally {
    socket.destroy();
  }
}

const fresh = () => join(tiny.folder, `cli-${runs++}`);

/** `shardloop finetune` on the tiny model; 22 records. */
async function finetune(out: string, ...flags: string[]): Promise<Ended> {
  return shardloop(['finetune', '--model', tiny.model, '--data', tiny.data, '--out', out, '--lr', '1e-2', ...flags]);
}

describe('finetune', () => {
  const alone: Record<string, Promise<ReturnType<typeof metricsOf>>> = {};

  it('does what the contract says, over two ranks', async () => {
    const out = fresh();
    const contract =
      '--method lora --lora-rank 8 --lora-alpha 16 --target-modules all-linear --nproc 2 --epochs 1 --micro-batch 4 ' +
      '--grad-accum 2 --seq-len 64 --lr 1e-3 --precision bf16 --seed 1 --save-steps 1 --resume auto --json';
    const { code, stdout, stderr } = await finetune(out, ...contract.split(' '));
    expect(stderr).toContain('finetune step 2/2');
    expect(code).toBe(0);
    expect(JSON.parse(stdout)).toMatchObject({ command: 'finetune', steps: 2, ranks: 2, result: join(out, 'adapter') });
    expect(readdirSync(join(out, 'adapter'))).toContain('adapter_model.safetensors');
    const names = readdirSync(out);
    for (const name of ['metrics.jsonl', 'loss.svg', 'run.json', 'checkpoint-1']) expect(names).toContain(name);
    expect(names.filter((name) => name.startsWith('events.out'))).toHaveLength(1);
    const generated = await shardloop(
      ['generate', '--model', tiny.model, '--adapter', join(out, 'adapter'), '--prompt', 'Say 1 x', '--json'].concat(
        '--max-new-tokens 5 --temperature 0'.split(' '),
      ),
    );
    expect(generated.code).toBe(0);
    const result = JSON.parse(generated.stdout);
    expect(Object.keys(result).toSorted()).toEqual(['finishReason', 'promptTokenIds', 'text', 'tokenIds']);
    expect(result.promptTokenIds).toEqual([...Buffer.from('Say 1 x\n')]);
    expect(result.tokenIds.length).toBeLessThanOrEqual(5);
  });

  it.each([
    ['two ranks', '--nproc 2 --micro-batch 4'],
    ['two ranks with accumulation', '--nproc 2 --micro-batch 2 --grad-accum 2'],
    ['three ranks, shares that do not divide', '--nproc 3 --micro-batch 1 --grad-accum 3'],
  ])('%s give the loss curve of one', async (_, flags) => {
    const batch = flags.includes('--nproc 3') ? '9' : '8'; // 22 records: the last batch of an epoch is smaller
    const common = ['--epochs', '7', '--precision', 'fp32', '--threads', '1'];
    alone[batch] ??= (async () => {
      const out = fresh();
      expect((await finetune(out, ...common, '--micro-batch', batch)).code).toBe(0);
      return metricsOf(out);
    })();
    const expected = await alone[batch];
    const out = fresh();
    expect((await finetune(out, ...common, ...flags.split(' '))).code).toBe(0);
    const received = metricsOf(out);
    expect(received.map((m) => m.tokens)).toEqual(expected.map((m) => m.tokens));
    for (const [i, { loss }] of received.slice(0, 20).entries()) {
      expect(Math.abs(loss / expected[i]!.loss - 1), `step ${i + 1}`).toBeLessThan(1e-5);
    }
  });

  it('takes its options from a file and the environment', async () => {
    const file = join(tiny.folder, 'run.yaml');
    const out = fresh();
    writeFileSync(file, `model: ${tiny.model}\ndata: ${tiny.data}\nout: ${out}\nmax-steps: 2\n`);
    const { code } = await shardloop(['finetune', '--config', file], { env: { SHARDLOOP_LORA_RANK: '3' } });
    expect(code).toBe(0);
    expect(JSON.parse(readFileSync(join(out, 'adapter', 'adapter_config.json'), 'utf8'))).toMatchObject({ r: 3 });
    expect(losses(out)).toHaveLength(2);
  });

  it('a dry run over two ranks writes nothing', async () => {
    const cwd = fresh();
    mkdirSync(cwd);
    const args = ['finetune', '--model', tiny.model, '--data', tiny.data, '--out', 'o', '--nproc', '2', '--dry-run'];
    const { code, stdout } = await shardloop([...args, '--json'], { cwd });
    expect(code).toBe(0);
    expect(JSON.parse(stdout).plan).toMatchObject({ ranks: 2, globalBatch: 8, steps: 3 });
    expect((await shardloop(args, { cwd })).stdout).toContain('memory a rank');
    expect(readdirSync(cwd)).toEqual([]);
  });

  it.each(['1', '2'])('a bad record ends with 3, file and line (%s ranks)', async (nproc) => {
    const data = join(tiny.folder, 'bad.jsonl');
    const out = fresh();
    writeFileSync(data, '{"prompt": "a", "response": "b"}\n{"prompt": 7, "response": "b"}\n');
    const flags = ['--model', tiny.model, '--data', data, '--out', out, '--nproc', nproc, '--json'];
    const { code, stdout, stderr } = await shardloop(['finetune', ...flags]);
    expect(code).toBe(3);
    expect(stderr).toMatch(/bad\.jsonl:2: expected "prompt" to be a string/);
    expect(stderr).not.toMatch(/\n\s+at .*:\d+:\d+/);
    if (nproc === '1') expect(JSON.parse(stdout)).toMatchObject({ error: { code: 'BAD_RECORD' } });
    expect(existsSync(out)).toBe(false);
  });
});

describe('signals', () => {
  const flags = ['--epochs', '20', '--log-steps', '1', '--lora-dropout', '0.1', '--threads', '1'];
  const undisturbed: Record<string, Promise<number[]>> = {};

  it.each<[string, NodeJS.Signals, number]>([
    ['1', 'SIGINT', 130],
    ['2', 'SIGINT', 130],
    ['1', 'SIGTERM', 143],
    ['2', 'SIGTERM', 143],
  ])(
    'with %s ranks the first %s saves, says how to resume, and the rest is bit-identical',
    async (nproc, signal, expected) => {
      const start = (out: string, ...more: string[]) => [
        ...['finetune', '--model', tiny.model, '--data', tiny.data, '--out', out, '--nproc', nproc, ...flags, ...more],
      ];
      undisturbed[nproc] ??= (async () => {
        const whole = fresh();
        expect((await shardloop(start(whole))).code).toBe(0);
        return losses(whole);
      })();
      const whole = await undisturbed[nproc];
      const out = fresh();
      let sent = false;
      const { code, stderr } = await shardloop(start(out), {
        onStderr: (text, kill) => {
          if (sent || !text.includes('step 3/')) return;
          sent = true;
          kill(signal);
        },
      });
      expect(code).toBe(expected);
      expect(stderr).toContain('--resume auto');
      expect(stderr).toContain(`${signal}: stopping after this step with a checkpoint; once more stops at once`);
      expect(stderr).not.toMatch(/\n\s+at .*:\d+:\d+/);
      const stopped = losses(out).length;
      expect(stopped).toBeLessThan(whole.length);
      expect(readdirSync(out)).toContain(`checkpoint-${stopped}`);
      expect((await shardloop(start(out, '--resume', 'auto'))).code).toBe(0);
      expect(losses(out)).toEqual(whole);
      expect(metricsOf(out).map((m) => m.step)).toEqual(whole.map((_, i) => i + 1));
    },
  );

  it('a rank that waits for others is stopped too', async () => {
    const out = fresh();
    let kill: (signal: NodeJS.Signals) => void = () => {};
    const store = createServer(() => kill('SIGTERM')).listen(0, '127.0.0.1'); // answers nothing
    await once(store, 'listening');
    const env = { RANK: '1', WORLD_SIZE: '2', LOCAL_RANK: '1', LOCAL_WORLD_SIZE: '2', MASTER_ADDR: '127.0.0.1' };
    const port = String((store.address() as AddressInfo).port);
    const args = ['finetune', '--model', tiny.model, '--data', tiny.data, '--out', out];
    const began = performance.now();
    const { code } = await shardloop(args, {
      env: { ...env, MASTER_PORT: port },
      onStart: (send) => {
        kill = send;
      },
    });
    store.close();
    expect(code).toBe(143);
    expect(performance.now() - began).toBeLessThan(30_000);
    expect(existsSync(out)).toBe(false);
  });

  it('promises no checkpoint before the first step', async () => {
    const out = fresh();
    const port = await freePort();
    const env = { RANK: '0', WORLD_SIZE: '2', LOCAL_RANK: '0', LOCAL_WORLD_SIZE: '2', MASTER_ADDR: '127.0.0.1' };
    const { code, stderr } = await shardloop(['finetune', '--model', tiny.model, '--data', tiny.data, '--out', out], {
      env: { ...env, MASTER_PORT: String(port) },
      // It serves the store, and waits there for a rank that does not come.
      onStart: async (kill) => {
        while (!(await answers(port))) await sleep(50);
        kill('SIGINT');
      },
    });
    expect(code).toBe(130);
    expect(stderr).toContain(
      'SIGINT: stopping before the first step; nothing more is trained; once more stops at once',
    );
    expect(stderr).not.toContain('checkpoint');
    expect(existsSync(out)).toBe(false);
  });

  it('the second stops at once', async () => {
    const out = fresh();
    const began = performance.now();
    const { code } = await shardloop(
      ['finetune', '--model', tiny.model, '--data', tiny.data, '--out', out, '--epochs', '100000', '--log-steps', '1'],
      { onStderr: (text, kill) => text.includes('step 3/') && [kill('SIGINT'), kill('SIGINT')] },
    );
    expect(code).toBe(130);
    expect(performance.now() - began).toBeLessThan(30_000);
  });
});

describe('generate', () => {
  it('says when the text is as long as the model can take', async () => {
    const args = ['generate', '--model', tiny.model, '--prompt', 'x'.repeat(95), '--raw', '--max-new-tokens', '9'];
    const { stdout, stderr } = await shardloop([...args, '--json']);
    expect(JSON.parse(stdout)).toMatchObject({ finishReason: 'context' });
    expect(stderr).toContain('as long as this model can take');
  });
});

describe('pretrain and merge', () => {
  it('pretrain leaves a folder that generate and finetune take', async () => {
    const out = fresh();
    const text = join(tiny.folder, 'text.txt');
    writeFileSync(text, 'The cat sat on the mat.\n\n'.repeat(60));
    const shape = '--layers 1 --heads 2 --width 16 --seq-len 32 --micro-batch 8 --epochs 2 --eval-split 0.1 --nproc 2';
    const pretrained = await shardloop(['pretrain', '--data', text, '--out', out, ...shape.split(' '), '--json']);
    expect(pretrained.code).toBe(0);
    const summary = JSON.parse(pretrained.stdout);
    expect(summary.evalLoss).toBeLessThan(summary.evalLossBefore);
    const model = join(out, 'model');
    const tuned = fresh();
    const args = ['--data', tiny.data, '--out', tuned, '--max-steps', '1', '--seq-len', '24'];
    expect((await shardloop(['finetune', '--model', model, ...args])).code).toBe(0);
    const merged = fresh();
    const merge = ['merge', '--model', model, '--adapter', join(tuned, 'adapter'), '--out', merged, '--json'];
    expect(JSON.parse((await shardloop(merge)).stdout)).toEqual({ out: merged, merged: 4 });
    expect((await shardloop(merge)).code).toBe(2);
    expect((await shardloop([...merge, '--overwrite'])).code).toBe(0);
    const clobber = await shardloop([...merge.slice(0, -3), '--out', model, '--json']);
    expect(clobber.code).toBe(2);
    expect(JSON.parse(clobber.stdout)).toMatchObject({ error: { code: 'BAD_CONFIG' } });
    const said = await shardloop(['generate', '--model', merged, '--prompt', 'The', '--max-new-tokens', '4']);
    expect(said.code).toBe(0);
    expect(said.stdout.endsWith('\n')).toBe(true);
  });

  it('refuses a conversation as text, and a folder that is no model', async () => {
    const out = fresh();
    const { code, stderr } = await shardloop(['pretrain', '--data', tiny.data, '--out', out]);
    expect(code).toBe(3);
    expect(stderr).toContain('use `shardloop finetune`');
    expect((await shardloop(['generate', '--model', 'nowhere', '--prompt', 'x'])).code).toBe(2);
    const misfit = await finetune(out, '--target-modules', 'q_proj');
    expect(misfit).toMatchObject({ code: 2, stderr: expect.stringContaining('it has layers such as attn.c_attn') });
    expect(misfit.stderr).toMatch(/^shardloop: --target-modules: "q_proj" matches no layer/);
    const high = await finetune(out, '--lora-rank', '999');
    expect(high).toMatchObject({
      code: 2,
      stderr: expect.stringMatching(/^shardloop: --lora-rank: expected at most \d+, /),
    });
  });
});
