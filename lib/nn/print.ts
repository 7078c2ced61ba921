// Modules as text, in the layout that PyTorch's users know: one line a module, equal neighbours in a list folded.
import { isModule } from './members.js';
import type { Module } from './module.js';

interface Line {
  name: string;
  text: string;
}

/** The module as an indented tree: `Linear(in=2, out=3, bias=true)`. */
export function printModule(module: Module): string {
  return tree(module, new Set());
}

function tree(module: Module, above: ReadonlySet<unknown>): string {
  const name = module.constructor.name;
  if (above.has(module)) return `${name}(...)`;
  const inside = new Set(above).add(module);
  const fields = module as unknown as Record<string, unknown>;
  const children: Line[] = [];
  for (const key of Object.keys(fields)) {
    const text = member(fields[key], inside);
    if (text !== null) children.push({ name: key, text });
  }
  return block(name, module.extraRepr(), children);
}

/** The text of a field that holds modules, or null for any other field. */
function member(value: unknown, above: ReadonlySet<unknown>): string | null {
  if (isModule(value)) return tree(value, above);
  if (typeof value !== 'object' || value === null || above.has(value)) return null;
  if (!Array.isArray(value) && Object.getPrototypeOf(value) !== Object.prototype) return null;
  const inside = new Set(above).add(value);
  const lines: Line[] = [];
  for (const [name, item] of Object.entries(value)) {
    const text = member(item, inside);
    if (text !== null) lines.push({ name, text });
  }
  if (lines.length === 0) return null;
  return Array.isArray(value) ? block('ModuleList', '', fold(lines)) : block('ModuleDict', '', lines);
}

/** Neighbours that print alike become one line: `(0-11): 12 x Block(...)`. */
function fold(lines: Line[]): Line[] {
  const folded: Line[] = [];
  for (let start = 0, end = 0; start < lines.length; start = end) {
    const { name, text } = lines[start]!;
    while (end < lines.length && lines[end]!.text === text) end++;
    const count = end - start;
    folded.push(count === 1 ? { name, text } : { name: `${name}-${lines[end - 1]!.name}`, text: `${count} x ${text}` });
  }
  return folded;
}

function block(name: string, extra: string, children: Line[]): string {
  if (children.length === 0) return `${name}(${extra})`;
  const body = children.map((child) => `(${child.name}): ${child.text}`);
  if (extra !== '') body.unshift(extra);
  return `${name}(\n${body.join('\n').replace(/^/gm, '  ')}\n)`;
}
