// Which schemas become typed functions, and why the others do not. By rule first, then by choices.ts.
import { parseSchema, type Schema, type SchemaType } from '../../lib/core/schema.js';
import { AMBIGUOUS, EXCLUDED, UNDERSCORE } from './choices.js';

/** A schema and what becomes of it. */
export interface Verdict {
  readonly schema: Schema;
  /** null: generated. */
  readonly reason: string | null;
}

/** The TypeScript type of each base type that can cross the door. */
export const BASE_TYPES: Readonly<Record<string, string>> = {
  Tensor: 'Tensor',
  int: 'Int',
  SymInt: 'Int',
  float: 'number',
  Scalar: 'Scalar',
  bool: 'boolean',
  str: 'string',
  ScalarType: 'DType',
  Layout: 'Layout',
  Device: 'string',
  MemoryFormat: 'MemoryFormat',
  Generator: 'Generator',
};

/** Every ATen schema with its verdict, sorted by name. */
export function judge(texts: readonly string[]): Verdict[] {
  return texts
    .filter((text) => text.startsWith('aten::'))
    .map(parseSchema)
    .sort((a, b) => (a.qualified < b.qualified ? -1 : 1))
    .map((schema) => ({ schema, reason: exclusion(schema) }));
}

function exclusion(schema: Schema): string | null {
  if (schema.arguments.some((arg) => arg.written && arg.keywordOnly))
    return 'writes its result into an argument (out=)';
  if (schema.name.startsWith('_') && !UNDERSCORE.some(([pattern]) => pattern.test(schema.name))) {
    return 'private to libtorch (leading underscore)';
  }
  const short = schema.qualified.slice('aten::'.length);
  const chosen = EXCLUDED.find(([pattern]) => pattern.test(schema.name) || pattern.test(short));
  if (chosen) return chosen[1];
  if (AMBIGUOUS[short] !== undefined) return AMBIGUOUS[short];
  const strange = [...schema.arguments, ...schema.returns].find((field) => !passes(field.type));
  return strange ? `its schema uses ${strange.type.base}, which TypeScript cannot pass` : null;
}

function passes(type: SchemaType): boolean {
  return Object.hasOwn(BASE_TYPES, type.base);
}
