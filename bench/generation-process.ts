// Our side of bench/generation.ts: a process that generates. Arguments: the model's folder, its precision (fp32, bf16),
// threads, rows, tokens of a prompt, new tokens. Commands on stdin as contest.ts has them; a step is a run of generate(),
// and what must agree is a number made of its tokens.
import { readFileSync } from 'node:fs';
import { createInterface } from 'node:readline';
import { generate, loadModel, setNumThreads } from 'shardloop';

const [folder, precision, ...numbers] = process.argv.slice(2) as [string, string, ...string[]];
const [threads, rows, prompt, fresh] = numbers.map(Number) as [number, number, number, number];
setNumThreads(threads);
const { model } = await loadModel(folder, { dtype: precision === 'bf16' ? 'bfloat16' : 'float32', tokenizer: false });
const V = model.config.vocab_size;
const prompts = Array.from({ length: rows }, (_, row) =>
  Array.from({ length: prompt }, (_, at) => ((row + 1) * 7919 + at * (row + 3)) % V),
);

let tokens: number[][] = [];
for await (const line of createInterface({ input: process.stdin })) {
  const [command, count] = line.split(' ');
  if (command === 'check') {
    console.log(tokens.flat().reduce((sum, token) => (sum * 31 + token) % 2147483647, 7));
  } else if (command === 'memory') {
    const peak = /VmHWM:\s+(\d+) kB/.exec(readFileSync('/proc/self/status', 'utf8'))![1];
    console.log(Number(peak) * 1024);
  } else {
    const start = process.hrtime.bigint();
    for (let i = 0; i < Number(count); i++) tokens = await generate(model, prompts, { maxNewTokens: fresh, eos: null });
    console.log(Number(process.hrtime.bigint() - start) / Number(count));
  }
}
