// `npm run quickstart`: set up what is missing, pretrain a small GPT on the bundled text, tune it with LoRA over two
// ranks on the bundled dialogues, and show what the tuning did. Leaves everything in out/quickstart/.
// Not a part of the library: it runs the `shardloop` program as a user would.
import { spawn } from 'node:child_process';
import { rmSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { nativeSetup, prepare } from './setup.mjs';

const root = fileURLToPath(new URL('..', import.meta.url));
const program = join(root, 'dist', 'cli', 'index.js');
const out = join('out', 'quickstart');
const base = join(out, 'base', 'model');
const prompts = [
  'How many months does a year have?',
  'What does a tokenizer do?',
  'Good night!',
  '冰是什么?',
  '什么是 GPU?',
];

await main();

async function main() {
  prepare();
  await nativeSetup();
  const started = performance.now();
  rmSync(join(root, out), { recursive: true, force: true });

  say('\n1/3  pretrain a small GPT, byte by byte, on examples/data/corpus.txt (two ranks over Gloo)');
  await shardloop('pretrain', {
    ...{ data: 'examples/data/corpus.txt', out: join(out, 'base'), nproc: 2 },
    ...{ layers: 4, width: 160, heads: 5, seqLen: 160 },
    ...{ epochs: 8, microBatch: 2, lr: 2e-3, warmupSteps: 100, evalSplit: 0.03, evalSteps: 500, logSteps: 200 },
  });

  say('\n2/3  tune it with LoRA on examples/data/dialogues.json (two ranks over Gloo)');
  await shardloop('finetune', {
    ...{ model: base, data: 'examples/data/dialogues.json', out, nproc: 2 },
    ...{ method: 'lora', loraRank: 16, loraAlpha: 32, targetModules: 'all-linear' },
    ...{ epochs: 12, microBatch: 8, lr: 6e-3, evalSplit: 0.05, evalSteps: 50, logSteps: 20 },
  });

  say('\n3/3  answers before and after');
  const { default: Table } = await import('cli-table3');
  const table = new Table({ head: ['prompt', 'before', 'after'], style: { head: [], border: [] } });
  const template = join(out, 'adapter', 'chat_template.jinja');
  for (const prompt of prompts) {
    const options = { model: base, template, prompt, maxNewTokens: 96, temperature: 0 };
    const [before, after] = [await generate(options), await generate({ ...options, adapter: join(out, 'adapter') })];
    table.push([wrap(prompt, 20), wrap(before, 42), wrap(after, 42)]);
  }
  process.stdout.write(`${table}\n`);
  say(
    `Done in ${Math.round((performance.now() - started) / 1000)} s. ${out}/ holds the base model (base/model), the adapter, metrics.jsonl,`,
  );
  say(`loss.svg, run.json and the events that \`tensorboard --logdir ${out}\` shows. Ask it something yourself:`);
  say(`  npx shardloop generate --model ${base} --adapter ${join(out, 'adapter')} --prompt "Hello!"`);
}

async function generate(options) {
  const { text } = JSON.parse(await shardloop('generate', { ...options, json: true }, { capture: true }));
  return text.replace(/\s+/g, ' ').trim();
}

function shardloop(command, options, { capture = false } = {}) {
  const flags = Object.entries(options).flatMap(([key, value]) => {
    const flag = `--${key.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`)}`;
    return value === true ? [flag] : [flag, String(value)];
  });
  return run([program, command, ...flags], capture);
}

/** Run a Node program from the repository's root; resolve to its stdout when captured, and end as it ends. */
function run(args, capture = false) {
  return new Promise((resolve) => {
    const child = spawn(process.execPath, args, {
      cwd: root,
      stdio: ['inherit', capture ? 'pipe' : 'inherit', 'inherit'],
    });
    let text = '';
    child.stdout?.setEncoding('utf8').on('data', (part) => {
      text += part;
    });
    child.on('close', (code, signal) => {
      if (code === 0) return resolve(text);
      process.exit(code ?? (signal === 'SIGTERM' ? 143 : 130));
    });
  });
}

/** Lines of at most `width` columns, broken at spaces where there are any; Chinese characters are two columns wide. */
function wrap(text, width) {
  const lines = [];
  let line = '';
  let columns = 0;
  for (const word of text.match(/[\u2e80-\uffff]|[^\s\u2e80-\uffff]+\s*|\s+/gu) ?? []) {
    const own = /[\u2e80-\uffef]/u.test(word) ? 2 : word.trimEnd().length;
    if (columns + own > width) {
      lines.push(line.trimEnd());
      [line, columns] = ['', 0];
    }
    line += word;
    columns += /[\u2e80-\uffef]/u.test(word) ? 2 : word.length;
  }
  return [...lines, line].join('\n');
}

function say(text) {
  process.stderr.write(`${text}\n`);
}
