// Reads the text of an operator's schema, `aten::add.Tensor(Tensor self, Tensor other, *, Scalar alpha=1) -> Tensor`,
// into plain objects: for call.ts (which results are tensors) and for scripts/generate-ops.
import { ShardloopError } from './errors.js';

/** A type of a schema: its base (`Tensor`, `int`, ...) and what follows it, from the inside out: `?`, `[]`, `[2]`. */
export interface SchemaType {
  readonly base: string;
  readonly suffixes: readonly string[];
}

/** One argument, or one result, of a schema. */
export interface SchemaField {
  readonly name: string;
  readonly type: SchemaType;
  /** Whether the op writes to it in place. */
  readonly written: boolean;
  /** The alias set that it shares with other fields, such as `a`; null when it is fresh. */
  readonly alias: string | null;
}

/** One argument of a schema. */
export interface SchemaArgument extends SchemaField {
  /** Whether it may only be given by name. */
  readonly keywordOnly: boolean;
  /** The default's text, or null when it must be given. */
  readonly fallback: string | null;
}

/** One operator. */
export interface Schema {
  /** The whole line. */
  readonly text: string;
  /** With the overload: `aten::add.Tensor`. */
  readonly qualified: string;
  readonly namespace: string;
  readonly name: string;
  readonly overload: string;
  readonly arguments: readonly SchemaArgument[];
  readonly returns: readonly SchemaField[];
}

const HEAD = /^([A-Za-z0-9_]+)::([A-Za-z0-9_]+)(?:\.([A-Za-z0-9_]+))?\((.*)\) -> (.*)$/;
// The alias set stands behind the base type, or behind the whole type: `Tensor(a!)[] x`, `Tensor[](a!) x`.
const FIELD = /^([A-Za-z_][A-Za-z0-9_.]*)(?:\(([^()]*)\))?((?:\?|\[\d*\])*)(?:\(([^()]*)\))?(?:\s+([A-Za-z_]\w*))?$/;

/** Parses one line. Throws UNKNOWN_OP for what is no schema. */
export function parseSchema(text: string): Schema {
  const head = HEAD.exec(text);
  if (!head) throw new ShardloopError('UNKNOWN_OP', `expected the schema of an op, received: ${text}`);
  const [, namespace = '', name = '', overload = '', inside = '', results = ''] = head;
  const args: SchemaArgument[] = [];
  let keywordOnly = false;
  for (const part of splitTop(inside)) {
    if (part === '*') {
      keywordOnly = true;
      continue;
    }
    const equals = part.indexOf('=');
    const field = parseField(equals < 0 ? part : part.slice(0, equals), text);
    args.push({ ...field, keywordOnly, fallback: equals < 0 ? null : part.slice(equals + 1) });
  }
  const list = results.startsWith('(') && results.endsWith(')') ? results.slice(1, -1) : results;
  return {
    text,
    qualified: `${namespace}::${name}${overload === '' ? '' : `.${overload}`}`,
    namespace,
    name,
    overload,
    arguments: args,
    returns: splitTop(list).map((part) => parseField(part, text)),
  };
}

function parseField(part: string, whole: string): SchemaField {
  // A dictionary's type has types inside its parentheses; nothing here looks into it.
  const dictionary = /^Dict\(.*\)(?: (\w+))?$/.exec(part);
  if (dictionary) {
    return { name: dictionary[1] ?? '', type: { base: 'Dict', suffixes: [] }, written: false, alias: null };
  }
  const match = FIELD.exec(part);
  if (!match) throw new ShardloopError('UNKNOWN_OP', `expected "type name", received "${part}" in: ${whole}`);
  const [, base = '', inner, suffixes = '', outer, name = ''] = match;
  const alias = inner ?? outer;
  return {
    name,
    type: { base, suffixes: suffixes.match(/\?|\[\d*\]/g) ?? [] },
    written: alias?.includes('!') ?? false,
    alias: alias === undefined ? null : alias.replace('!', ''),
  };
}

/** Splits at the commas that stand outside of brackets and quotes. */
function splitTop(text: string): string[] {
  const parts: string[] = [];
  let depth = 0;
  let quoted = false;
  let start = 0;
  for (let i = 0; i < text.length; i++) {
    const char = text[i];
    if (char === '\\') i++;
    else if (char === '"') quoted = !quoted;
    else if (quoted) continue;
    else if (char === '(' || char === '[') depth++;
    else if (char === ')' || char === ']') depth--;
    else if (char === ',' && depth === 0) {
      parts.push(text.slice(start, i).trim());
      start = i + 1;
    }
  }
  const last = text.slice(start).trim();
  if (last !== '') parts.push(last);
  return parts;
}
