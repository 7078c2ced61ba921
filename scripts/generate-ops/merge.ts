// Groups overloads by base name, and finds for each group an order and tests that choose the overload at run time:
// first by the kinds of the positional values, then by which options were given.
import type { Schema, SchemaArgument } from '../../lib/core/schema.js';
import { type Kind, kindsOf, kindTest, parameterType, resultType } from './types.js';

/** One schema as a function: positional parameters, then a trailing options object. */
export interface Overload {
  readonly schema: Schema;
  readonly positional: readonly SchemaArgument[];
  readonly options: readonly SchemaArgument[];
  readonly hasRequiredOptions: boolean;
}

/** An overload with the test that chooses it; null: nothing else is left. */
export interface Choice {
  readonly overload: Overload;
  readonly test: string | null;
}

/** A public function. */
export interface Operation {
  readonly name: string;
  readonly choices: readonly Choice[];
  /** Two overloads that no call can tell apart: the generator stops at them. */
  readonly ambiguous: readonly string[];
}

/** A schema as a function, by the rule: required and not keyword-only is positional, the rest are options. */
export function toOverload(schema: Schema): Overload {
  const isPositional = (arg: SchemaArgument): boolean => arg.fallback === null && !arg.keywordOnly;
  const options = schema.arguments.filter((arg) => !isPositional(arg));
  return {
    schema,
    positional: schema.arguments.filter(isPositional),
    options,
    hasRequiredOptions: options.some((arg) => arg.fallback === null),
  };
}

/** All operations, sorted by name. */
export function group(schemas: readonly Schema[]): Operation[] {
  const groups = new Map<string, Overload[]>();
  for (const schema of schemas) groups.set(schema.name, [...(groups.get(schema.name) ?? []), toOverload(schema)]);
  return [...groups].sort(([a], [b]) => (a < b ? -1 : 1)).map(([name, overloads]) => arrange(name, overloads));
}

function arrange(name: string, overloads: readonly Overload[]): Operation {
  const rank = (o: Overload): number =>
    100 * o.options.length + o.positional.filter((arg) => arg.type.base === 'Tensor').length;
  const ordered = [...overloads].sort((a, b) => rank(a) - rank(b) || (a.schema.overload < b.schema.overload ? -1 : 1));
  const ambiguous: string[] = [];
  const choices = ordered.map((overload, i) => {
    const later = ordered.slice(i + 1);
    return { overload, test: later.length === 0 ? null : testAgainst(overload, later, ambiguous) };
  });
  return { name, choices, ambiguous };
}

/** Kinds of values at position i, the options object and absence included. */
function slot(overload: Overload, i: number): Set<Kind> {
  const arg = overload.positional[i];
  if (arg) return kindsOf(arg.type);
  if (i > overload.positional.length || overload.options.length === 0) return new Set(['absent']);
  return new Set(overload.hasRequiredOptions ? ['options'] : ['options', 'absent']);
}

const disjoint = (a: ReadonlySet<Kind>, b: ReadonlySet<Kind>): boolean => ![...a].some((kind) => b.has(kind));

/** A test that is true for calls of `overload` and false for those of `others`. */
function testAgainst(overload: Overload, others: readonly Overload[], ambiguous: string[]): string {
  const tests: string[] = [];
  let left = [...others];
  const width = Math.max(overload.positional.length, ...others.map((other) => other.positional.length)) + 1;
  while (left.length > 0) {
    // The position that tells most of the rest apart.
    let best = -1;
    let most = 0;
    for (let i = 0; i < width; i++) {
      const count = left.filter((other) => disjoint(slot(overload, i), slot(other, i))).length;
      if (count > most) [best, most] = [i, count];
    }
    if (best < 0) break;
    tests.push(kindTest(slot(overload, best), `a${best}`));
    left = left.filter((other) => !disjoint(slot(overload, best), slot(other, best)));
  }
  for (const other of left) {
    const test = optionTest(overload, other);
    if (test === null) ambiguous.push(`${overload.schema.qualified} and ${other.schema.qualified}`);
    else if (!tests.includes(test)) tests.push(test);
  }
  return tests.join(' && ');
}

/** Tells two overloads with the same positions apart by their options. */
function optionTest(overload: Overload, other: Overload): string | null {
  const at = `a${overload.positional.length}`;
  const names = overload.options.map((arg) => arg.name);
  const required = other.options.find((arg) => arg.fallback === null && !names.includes(arg.name));
  if (required) return `!given(${at}, '${required.name}')`;
  if (other.options.some((arg) => !names.includes(arg.name))) {
    return `only(${at}, [${names.map((name) => `'${name}'`).join(', ')}])`;
  }
  // The same names with values of different kinds, such as clamp with numbers or with tensors.
  const tests = overload.options.flatMap((arg) => {
    const rival = other.options.find((candidate) => candidate.name === arg.name);
    if (!rival) return [];
    const kinds = new Set([...kindsOf(arg.type)].filter((kind) => !kindsOf(rival.type).has(kind)));
    return kinds.size === 0 ? [] : [kindTest(kinds, `option(${at}, '${arg.name}')`)];
  });
  return tests.length === 0 ? null : `(${tests.join(' || ')})`;
}

/** The TypeScript type of an options object; null when there are none. */
export function optionsType(overload: Overload): string | null {
  if (overload.options.length === 0) return null;
  const fields = overload.options.map(
    (arg) => `${arg.name}${arg.fallback === null ? '' : '?'}: ${parameterType(arg.type)}`,
  );
  return `{ ${fields.join('; ')} }`;
}

/** A call signature: parameter names with types, and the result. */
export interface Signature {
  parameters: { name: string; type: string; optional: boolean }[];
  result: string;
}

/** Words that TypeScript takes for no variable, and the names that ops.ts imports. */
const RESERVED = new Set(
  (
    'default function in new var with arguments eval delete this ' +
    'b h hgo hn hno ho hs hso id w wn list known needed given only option isScalar isTensor isOptions result o'
  ).split(' '),
);

/** A name for a parameter. */
export function safeName(name: string): string {
  return RESERVED.has(name) ? `${name}_` : name;
}

/** The signatures that callers see: overloads that differ in the type of one parameter become one. */
export function signatures(overloads: readonly Overload[]): Signature[] {
  let list = overloads.map((overload) => {
    const parameters = overload.positional.map((arg) => ({
      name: safeName(arg.name),
      type: parameterType(arg.type),
      optional: false,
    }));
    const options = optionsType(overload);
    if (options) parameters.push({ name: 'options', type: options, optional: !overload.hasRequiredOptions });
    return { parameters, result: resultType(overload.schema) };
  });
  for (let merged = true; merged; ) {
    merged = false;
    for (let i = 0; i < list.length && !merged; i++) {
      for (let j = i + 1; j < list.length && !merged; j++) {
        const union = unite(list[i]!, list[j]!);
        if (!union) continue;
        list = list.filter((_, k) => k !== j).map((signature, k) => (k === i ? union : signature));
        merged = true;
      }
    }
  }
  return list;
}

function unite(a: Signature, b: Signature): Signature | null {
  if (a.result !== b.result || a.parameters.length !== b.parameters.length) return null;
  const different = a.parameters.filter((parameter, i) => parameter.type !== b.parameters[i]!.type);
  if (different.length > 1 || a.parameters.some((p, i) => p.optional !== b.parameters[i]!.optional)) return null;
  return {
    result: a.result,
    parameters: a.parameters.map((parameter, i) => {
      const other = b.parameters[i]!.type;
      return parameter.type === other ? parameter : { ...parameter, type: unionType(parameter.type, other) };
    }),
  };
}

function unionType(a: string, b: string): string {
  const parts = new Set([...a.split(' | '), ...b.split(' | ')]);
  // An object type may hold '|' inside; it is kept whole.
  return a.startsWith('{') || b.startsWith('{') ? `${a} | ${b}` : [...parts].join(' | ');
}
