// The readers of config.json and adapter_config.json, fed with anything: a configuration comes out, or BAD_MODEL.
import { fc, test as property } from '@fast-check/vitest';
import { expect } from 'vitest';
import { ShardloopError } from '../../lib/core/index.js';
import { GPT2_CONFIG_KEYS } from '../../lib/models/gpt2/config.js';
import { readGPT2Config } from '../../lib/models/gpt2/hf.js';
import { readAdapterConfig } from '../../lib/peft/index.js';

const anything = fc.jsonValue();
const some = (keys: readonly string[]) =>
  fc.dictionary(fc.oneof(fc.constantFrom(...keys), fc.string()), anything, { maxKeys: 12 }) as fc.Arbitrary<
    Record<string, unknown>
  >;

function readOrRefuse<T>(read: () => T): T | null {
  try {
    return read();
  } catch (error) {
    expect(error).toBeInstanceOf(ShardloopError);
    expect((error as ShardloopError).code).toBe('BAD_MODEL');
    return null;
  }
}

property.prop([some([...GPT2_CONFIG_KEYS, 'hidden_size', 'add_cross_attention', 'quantization_config'])])(
  'config.json',
  (json) => {
    const config = readOrRefuse(() => readGPT2Config(json));
    if (config !== null) expect(config.n_embd % config.n_head).toBe(0);
  },
);

const ADAPTER_KEYS = [
  'r',
  'lora_alpha',
  'lora_dropout',
  'use_rslora',
  'target_modules',
  'rank_pattern',
  'bias',
  'use_dora',
];
property.prop([some(ADAPTER_KEYS), fc.string()])('adapter_config.json', (json, layer) => {
  const config = readOrRefuse(() =>
    readAdapterConfig({ target_modules: ['c_attn'], ...json, peft_type: 'LORA' }, 'a.json'),
  );
  if (config !== null) expect(config.rankOf(layer)).toBeGreaterThan(0);
});
