// Turns token ids into text one at a time, holding back bytes until a whole character has come, so that a streamed
// answer never shows half a Chinese character or emoji. Joined, the pieces equal the decoding of all ids at once.
// Two kinds: byte-level tokenizers know each token's bytes; for others the text is compared before and after a token.

/** An incremental decoder; see {@link Tokenizer.stream}. */
export interface DecodeStream {
  /** Takes the next token id and returns the text that is certain by now, often empty. */
  push(id: number): string;
  /** Returns what was still held back; an incomplete character becomes U+FFFD. The stream can then be used anew. */
  end(): string;
}

/** A token as the stream needs it: raw bytes, or the text of an added token, or null for one that is left out. */
export type TokenPiece = Uint8Array | string | null;

/** A stream over tokens whose bytes are known. `piece` gives a token's bytes, an added token's text, or null. */
export function byteStream(piece: (id: number) => TokenPiece): DecodeStream {
  const decoder = new TextDecoder('utf-8', { ignoreBOM: true });
  return {
    push(id) {
      const next = piece(id);
      if (next === null) return '';
      if (typeof next === 'string') return decoder.decode() + next;
      return decoder.decode(next, { stream: true });
    },
    end: () => decoder.decode(),
  };
}

/** A stream over any tokenizer: decodes a short window of ids and returns by how much its text grew. */
export function windowStream(decode: (ids: readonly number[]) => string): DecodeStream {
  let ids: number[] = [];
  let shown = 0; // ids[0..shown) are already in the text that was returned; they stay as context for spaces
  const flush = (complete: boolean): string => {
    const before = decode(ids.slice(0, shown));
    const after = decode(ids);
    if (!complete && after.endsWith('\ufffd')) return '';
    ids = ids.slice(shown);
    shown = ids.length;
    return after.slice(before.length);
  };
  return {
    push(id) {
      ids.push(id);
      return flush(false);
    },
    end() {
      const rest = ids.length > shown ? flush(true) : '';
      ids = [];
      shown = 0;
      return rest;
    },
  };
}
