// Tensors as nested arrays and as text for people: values aligned, large tensors elided to their edges, then dtype,
// shape, device and whether a gradient is recorded. Printing never throws and records nothing for backward.
// Not here: reading the elements (native/tensor_data).
import { FACTS, type Handle, native, raw } from './binding.js';
import { checkDType, type DType, isComplexDType, isFloatingDType, type Layout, type TypedArray } from './dtype.js';

/** Elements beyond which only the edges are shown. */
const ELIDE_ABOVE = 1000;
/** How many entries are shown at each end of an elided axis. */
const EDGE = 3;
const LINE_WIDTH = 100;

/** One element as JavaScript shows it. */
export type Leaf = number | bigint | boolean | { re: number; im: number };

/** The elements of a tensor as nested arrays; a bare element for a tensor without axes. */
export type Nested = Leaf | Nested[];

/** Row-major `data` as nested arrays of `shape`. */
export function nest(data: TypedArray, shape: readonly number[], dtype: DType): Nested {
  const leaf = leafReader(data, dtype);
  let next = 0;
  const build = (axis: number): Nested => {
    if (axis === shape.length) return leaf(next++);
    return Array.from({ length: shape[axis]! }, () => build(axis + 1));
  };
  return build(0);
}

function leafReader(data: TypedArray, dtype: DType): (index: number) => Leaf {
  if (dtype === 'bool') return (index) => data[index] !== 0;
  if (isComplexDType(checkDType(dtype))) {
    return (index) => ({ re: Number(data[2 * index]), im: Number(data[2 * index + 1]) });
  }
  return (index) => {
    const value = data[index]!;
    if (typeof value === 'number') return value;
    const number = Number(value);
    return Number.isSafeInteger(number) ? number : value;
  };
}

/** How the elements are stored: 'strided', 'sparse_coo', 'sparse_csr' and so on. */
export function layoutOf(handle: Handle): Layout {
  // libtorch prints "Strided", "Sparse", "SparseCsr".
  const name = native().layout(handle);
  if (name === 'Sparse') return 'sparse_coo';
  return name.replace(/(?<=[a-z])[A-Z]/g, '_$&').toLowerCase() as Layout;
}

/** The text that console.log(tensor) shows. */
export function formatTensor(handle: Handle): string {
  try {
    if (!native().isAlive(handle)) return 'Tensor (disposed)';
    const shape = native().shape(handle);
    const dtype = native().dtype(handle);
    const device = native().device(handle);
    const layout = layoutOf(handle);
    const sparse = layout === 'strided' ? '' : ` ${layout}`;
    const marks = native().facts(handle) & FACTS.requiresGrad ? ' requiresGrad' : '';
    const head = `Tensor ${dtype} [${shape.join(', ')}] ${device}${sparse}${marks}`;
    const numel = shape.reduce((product, size) => product * size, 1);
    if (device === 'meta') return `${head} (no data)`;
    if (numel === 0) return `${head} (empty)`;
    if (sparse !== '' && numel > ELIDE_ABOVE) return `${head} (large; to_dense() shows a part)`;
    return `${head}${values(handle, shape, dtype as DType, numel > ELIDE_ABOVE)}`;
  } catch (error) {
    return `Tensor (${error instanceof Error ? error.message : String(error)})`;
  }
}

function values(handle: Handle, shape: readonly number[], dtype: DType, elided: boolean): string {
  const depth = native().scopePush();
  let shown: Nested;
  try {
    let edges = raw('aten::detach', handle) as Handle;
    if (elided) for (const axis of shape.keys()) edges = edgesOf(edges, axis);
    shown = nest(native().readSync(edges, false), native().shape(edges), dtype);
  } finally {
    native().scopePop(depth, []);
  }
  const format = formatter(flatten(shown), dtype);
  if (!Array.isArray(shown)) return ` ${format(shown)}`;
  return `\n${block(shown, 0, shape, elided, format)}`;
}

function edgesOf(handle: Handle, axis: number): Handle {
  const size = native().shape(handle)[axis]!;
  if (size <= 2 * EDGE) return handle;
  const first = raw('aten::slice.Tensor', handle, axis, 0, EDGE, 1);
  const last = raw('aten::slice.Tensor', handle, axis, size - EDGE, size, 1);
  return raw('aten::cat', [first, last], axis) as Handle;
}

function flatten(value: Nested): Leaf[] {
  return Array.isArray(value) ? value.flatMap(flatten) : [value];
}

function block(
  rows: Nested[],
  axis: number,
  shape: readonly number[],
  elided: boolean,
  format: (leaf: Leaf) => string,
): string {
  const gap = elided && shape[axis]! > 2 * EDGE;
  const indent = ' '.repeat(axis + 1);
  if (axis === shape.length - 1) {
    const cells = rows.map((leaf) => format(leaf as Leaf));
    if (gap) cells.splice(EDGE, 0, '...');
    return `[${wrapCells(cells, indent)}]`;
  }
  const parts = rows.map((row) => block(row as Nested[], axis + 1, shape, elided, format));
  if (gap) parts.splice(EDGE, 0, '...');
  // A blank line between matrices, as Python has it, for tensors of three axes and more.
  const blank = '\n'.repeat(shape.length - axis - 1);
  return `[${parts.join(`,${blank}${indent}`)}]`;
}

function wrapCells(cells: readonly string[], indent: string): string {
  const lines: string[] = [];
  let line = '';
  for (const cell of cells) {
    if (line !== '' && indent.length + line.length + cell.length + 2 > LINE_WIDTH) {
      lines.push(line);
      line = cell;
    } else {
      line = line === '' ? cell : `${line}, ${cell}`;
    }
  }
  lines.push(line);
  return lines.join(`,\n${indent}`);
}

/** A function that prints each of these elements, all to the same width. */
function formatter(leaves: readonly Leaf[], dtype: DType): (leaf: Leaf) => string {
  const text = textOf(leaves, dtype);
  const width = Math.max(...leaves.map((leaf) => text(leaf).length));
  return (leaf) => text(leaf).padStart(width);
}

function textOf(leaves: readonly Leaf[], dtype: DType): (leaf: Leaf) => string {
  if (isComplexDType(checkDType(dtype))) {
    const parts = leaves.flatMap((leaf) => (typeof leaf === 'object' ? [leaf.re, leaf.im] : []));
    const number = numberText(parts);
    return (leaf) => {
      const { re, im } = leaf as { re: number; im: number };
      return `${number(re)}${im < 0 || Object.is(im, -0) ? '-' : '+'}${number(Math.abs(im))}i`;
    };
  }
  if (!isFloatingDType(dtype)) return String;
  const number = numberText(leaves as number[]);
  return (leaf) => number(leaf as number);
}

function numberText(numbers: readonly number[]): (value: number) => string {
  const finite = numbers.filter(Number.isFinite).map(Math.abs);
  const nonzero = finite.filter((value) => value !== 0);
  const largest = nonzero.length === 0 ? 0 : Math.max(...nonzero);
  const smallest = nonzero.length === 0 ? 0 : Math.min(...nonzero);
  const whole = finite.every(Number.isInteger);
  const scientific = largest >= 1e8 || (!whole && (smallest < 1e-4 || (largest / smallest > 1e3 && largest >= 1e4)));
  return (value) => {
    if (Number.isNaN(value)) return 'nan';
    if (!Number.isFinite(value)) return value > 0 ? 'inf' : '-inf';
    if (scientific) return value.toExponential(4);
    return whole ? `${value.toFixed(0)}.` : value.toFixed(4);
  };
}
