// A small seeded random generator for the order of data: the same on every machine, rank and Node version. It is not the
// generator of tensors (core/random.ts) and not for secrets. Source: xoshiro128** by Blackman and Vigna, seeded by splitmix32.

/** Random integers that depend on `seed` and on `streams` (an epoch, an index) alone. */
export class DataRandom {
  readonly #state = new Uint32Array(4);

  constructor(seed: number, ...streams: number[]) {
    let mixed = 0;
    const mix = (word: number): number => {
      mixed = (mixed + 0x9e3779b9 + word) >>> 0;
      let z = mixed;
      z = Math.imul(z ^ (z >>> 16), 0x21f0aaad);
      z = Math.imul(z ^ (z >>> 15), 0x735a2d97);
      mixed = (mixed ^ z) >>> 0;
      return (z ^ (z >>> 15)) >>> 0;
    };
    for (const value of [seed, ...streams]) {
      mix(value >>> 0);
      mix(Math.floor(value / 2 ** 32) >>> 0);
    }
    for (let i = 0; i < 4; i++) this.#state[i] = mix(i);
    if (this.#state.every((word) => word === 0)) this.#state[0] = 1;
  }

  /** The next 32 random bits, as an integer from 0. */
  next(): number {
    const s = this.#state;
    const result = Math.imul(rotate(Math.imul(s[1]!, 5), 7), 9) >>> 0;
    const shifted = s[1]! << 9;
    s[2]! ^= s[0]!;
    s[3]! ^= s[1]!;
    s[1]! ^= s[2]!;
    s[0]! ^= s[3]!;
    s[2]! ^= shifted;
    s[3] = rotate(s[3]!, 11);
    return result;
  }

  /** An integer from 0 to below `limit` (at most 2^53), each equally likely. */
  below(limit: number): number {
    if (limit > 2 ** 32) return Math.floor(((this.next() >>> 5) * 2 ** 26 + (this.next() >>> 6)) * 2 ** -53 * limit);
    const usable = 2 ** 32 - (2 ** 32 % limit); // what is beyond would favour small numbers
    for (;;) {
      const bits = this.next();
      if (bits < usable) return bits % limit;
    }
  }

  /** The numbers 0 to n-1 in random order. */
  permutation(n: number): Uint32Array {
    const order = Uint32Array.from({ length: n }, (_, i) => i);
    for (let i = n - 1; i > 0; i--) {
      const j = this.below(i + 1);
      const kept = order[i]!;
      order[i] = order[j]!;
      order[j] = kept;
    }
    return order;
  }
}

function rotate(value: number, bits: number): number {
  return (value << bits) | (value >>> (32 - bits));
}
