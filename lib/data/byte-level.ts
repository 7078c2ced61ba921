// The byte alphabet of byte-level BPE (GPT-2's tokenizer and its successors): every byte stands for one printable
// character, so that a vocabulary of strings can hold any bytes. Not here: merges, splitting, special tokens.
// Source: the mapping published with GPT-2's encoder (printable Latin-1 stands for itself, the rest moves to U+0100 on).

function buildAlphabet(): string[] {
  const keeps = (b: number) => (b >= 0x21 && b <= 0x7e) || (b >= 0xa1 && b <= 0xac) || (b >= 0xae && b <= 0xff);
  let moved = 0;
  return Array.from({ length: 256 }, (_, b) => String.fromCharCode(keeps(b) ? b : 256 + moved++));
}

/** The character that stands for each byte, by byte value; 256 entries. */
export const BYTE_CHARACTERS: readonly string[] = buildAlphabet();

const BYTES = new Map(BYTE_CHARACTERS.map((character, byte) => [character, byte]));

/** The bytes that a byte-level token string stands for, or null when a character of it is not of the byte alphabet. */
export function tokenBytes(token: string): Uint8Array | null {
  const bytes = new Uint8Array(token.length);
  for (let i = 0; i < token.length; i++) {
    const byte = BYTES.get(token[i]!);
    if (byte === undefined) return null;
    bytes[i] = byte;
  }
  return bytes;
}
