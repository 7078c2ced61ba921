// Text from a model folder and, if given, an adapter, token by token:
//   npx tsx examples/sample.ts "How many months does a year have?" MODEL_DIR [ADAPTER_DIR]
import { data, generate, loadAdapter, loadModel } from 'shardloop';

const [prompt = 'What does a tokenizer do?', dir = 'out/quickstart/base/model', adapter] = process.argv.slice(2);
const { model, tokenizer } = await loadModel(dir);
if (adapter) await loadAdapter(model, adapter);

const ids = new data.ChatTemplate(tokenizer).encodePrompt(prompt);
const stream = tokenizer.stream(); // holds back bytes until they make a character
await generate(model, ids, {
  ...{ maxNewTokens: 100, temperature: 0.7, topP: 0.9, seed: 1 },
  onToken: (token) => void process.stdout.write(stream.push(token)),
});
process.stdout.write('\n');
