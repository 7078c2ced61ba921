// A strict pass over JSON text that JSON.parse does not give: where each element of the top-level array begins and ends,
// and where the syntax breaks, by offset. It builds no values; JSON.parse does that, element by element.

/** Where the syntax breaks: the offset in the text, and what belonged there. */
export class JsonSyntaxError extends Error {
  constructor(
    readonly offset: number,
    readonly expected: string,
  ) {
    super(`expected ${expected}`);
  }
}

const SPACE = /[ \t\n\r]*/y;
const NUMBER = /-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?/y;
const WORD = /true|false|null/y;
const MAX_DEPTH = 512; // of nesting; a record needs four or five

/** The offset behind whatever the sticky pattern matches at `at`, or -1. */
function match(pattern: RegExp, text: string, at: number): number {
  pattern.lastIndex = at;
  return pattern.test(text) ? pattern.lastIndex : -1;
}

function skipSpace(text: string, at: number): number {
  return match(SPACE, text, at);
}

/**
 * The [start, end) offsets of the elements of the array that `text` is. Throws {@link JsonSyntaxError} where the text is
 * not JSON, or not an array.
 */
export function* arrayElements(text: string): Generator<[start: number, end: number]> {
  let at = skipSpace(text, 0);
  if (text[at] !== '[') throw new JsonSyntaxError(at, 'an array of records, "["');
  at = skipSpace(text, at + 1);
  if (text[at] === ']') at += 1;
  else {
    for (;;) {
      const end = skipValue(text, at);
      yield [at, end];
      at = skipSpace(text, end);
      if (text[at] === ']') {
        at += 1;
        break;
      }
      if (text[at] !== ',') throw new JsonSyntaxError(at, '"," or "]" after a record');
      at = skipSpace(text, at + 1);
      if (text[at] === ']') throw new JsonSyntaxError(at, 'a record after ","');
    }
  }
  at = skipSpace(text, at);
  if (at < text.length) throw new JsonSyntaxError(at, 'the end of the file after "]"');
}

/** The offset behind the value that begins at `at`. Throws {@link JsonSyntaxError}. */
export function skipValue(text: string, at: number): number {
  const open: ('{' | '[')[] = [];
  let i = at;
  for (;;) {
    const character = text[i];
    if (character === '{' || character === '[') {
      if (open.length === MAX_DEPTH) throw new JsonSyntaxError(i, `at most ${MAX_DEPTH} nested values`);
      const inside = skipSpace(text, i + 1);
      if (text[inside] === (character === '{' ? '}' : ']')) i = inside + 1;
      else {
        open.push(character);
        i = character === '{' ? skipKey(text, inside) : inside;
        continue;
      }
    } else i = skipScalar(text, i);
    for (;;) {
      const container = open.at(-1);
      if (container === undefined) return i;
      const close = container === '{' ? '}' : ']';
      i = skipSpace(text, i);
      if (text[i] === close) {
        open.pop();
        i += 1;
        continue;
      }
      if (text[i] !== ',') throw new JsonSyntaxError(i, `"," or "${close}"`);
      i = skipSpace(text, i + 1);
      if (container === '{') i = skipKey(text, i);
      break;
    }
  }
}

/** Behind `"key" :` and the space after it. */
function skipKey(text: string, at: number): number {
  const end = text[at] === '"' ? skipString(text, at) : -1;
  if (end === -1) throw new JsonSyntaxError(at, 'a key in double quotes');
  const colon = skipSpace(text, end);
  if (text[colon] !== ':') throw new JsonSyntaxError(colon, '":" after a key');
  return skipSpace(text, colon + 1);
}

function skipScalar(text: string, at: number): number {
  if (text[at] === '"') return skipString(text, at);
  const number = match(NUMBER, text, at);
  const end = number === -1 ? match(WORD, text, at) : number;
  if (end === -1)
    throw new JsonSyntaxError(at, 'a value: an object, an array, a string, a number, true, false or null');
  return end;
}

function skipString(text: string, at: number): number {
  // By hand: a regular expression may exhaust its stack on a string of megabytes.
  for (let i = at + 1; i < text.length; i++) {
    const code = text.charCodeAt(i);
    if (code === 0x22) return i + 1;
    if (code < 0x20)
      throw new JsonSyntaxError(i, 'no bare control character in a string; write it as \\n, \\t or \\u00..');
    if (code !== 0x5c) continue;
    const escaped = text[i + 1] ?? '';
    if (
      escaped === 'u'
        ? !/^[0-9a-fA-F]{4}$/.test(text.slice(i + 2, i + 6))
        : !'"\\/bfnrt'.includes(escaped) || escaped === ''
    ) {
      throw new JsonSyntaxError(i, 'an escape that JSON knows');
    }
    i += escaped === 'u' ? 5 : 1;
  }
  throw new JsonSyntaxError(text.length, 'the closing double quote of a string');
}

/** What stands at an offset, for an error message. */
export function textAt(text: string, offset: number): string {
  if (offset >= text.length) return 'the end';
  const rest = text.slice(offset, offset + 20).split('\n', 1)[0]!;
  return rest === '' ? 'a line break' : JSON.stringify(rest);
}
