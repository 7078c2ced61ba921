// A small training run, over and over: a model with dropout and a custom function, loss, backward, clipping, AdamW, one
// scope a step. It reports how many tensors and how many bytes are alive as it goes; promises.test.ts and the soak judge.
// Run as a program: `node --expose-gc --import tsx training.ts STEPS`.
import { customFunction, manualSeed, memory, randint, randn, scope, type Tensor } from '../../lib/core/index.js';
import * as nn from '../../lib/nn/index.js';
import * as optim from '../../lib/optim/index.js';

const square = customFunction({
  forward(ctx, x) {
    ctx.save(x);
    return x.mul(x);
  },
  backward(ctx, g) {
    return g === null ? null : g.mul(ctx.saved[0]!).mul(2);
  },
});

class Network extends nn.Module {
  embed = new nn.Embedding({ count: 32, size: 16 });
  norm = new nn.LayerNorm({ size: 16 });
  up = new nn.Linear({ in: 16, out: 32 });
  dropout = new nn.Dropout(0.1);
  head = new nn.Linear({ in: 32, out: 32 });

  forward(ids: Tensor): Tensor {
    const x = this.norm.forward(this.embed.forward(ids)); // (B, T, 16)
    const h = this.dropout.forward(square(nn.gelu(this.up.forward(x)))); // (B, T, 32)
    return this.head.forward(h); // (B, T, 32)
  }
}

/** What was alive at evenly spaced moments of the run. */
export interface Trace {
  losses: number[];
  handles: number[];
  bytes: number[];
  resident: number[];
}

/** Trains for `steps` steps and looks twenty times. */
export function train(steps: number): Trace {
  manualSeed(5);
  const network = new Network();
  const optimizer = new optim.AdamW({ params: network.parameters(), lr: 1e-3 });
  const ids = randint(0, 32, [4, 8]);
  const noise = randn([1]);
  const trace: Trace = { losses: [], handles: [], bytes: [], resident: [] };
  const every = Math.max(1, Math.floor(steps / 20));
  for (let step = 1; step <= steps; step++) {
    const loss = scope(() => {
      const value = nn.crossEntropy(network.forward(ids), ids);
      value.backward();
      optim.clipGradNorm(network.parameters(), 1);
      optimizer.step();
      optimizer.zeroGrad();
      return value.itemSync() as number;
    });
    if (step % every !== 0) continue;
    globalThis.gc?.();
    const { handles, bytes } = memory.stats();
    trace.losses.push(loss);
    trace.handles.push(handles);
    trace.bytes.push(bytes);
    trace.resident.push(process.memoryUsage.rss());
  }
  optimizer.dispose();
  network.dispose();
  ids.dispose();
  noise.dispose();
  trace.handles.push(memory.stats().handles);
  return trace;
}

const steps = process.argv[1]?.endsWith('training.ts') ? Number(process.argv[2]) : 0;
if (steps > 0) process.stdout.write(JSON.stringify(train(steps)));
