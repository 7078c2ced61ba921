// The project's own files as the structure tests read them: names, lines, imports. Only files that git knows or would
// add count, so that build products do not.
import { execFileSync } from 'node:child_process';
import { existsSync, readFileSync } from 'node:fs';
import { dirname, join, posix } from 'node:path';
import { fileURLToPath } from 'node:url';
import ts from 'typescript';

export const ROOT = join(dirname(fileURLToPath(import.meta.url)), '..', '..');

/** Paths from the root, sorted; those that git ignores are left out. */
export function projectFiles(): string[] {
  const text = execFileSync('git', ['ls-files', '--cached', '--others', '--exclude-standard'], {
    cwd: ROOT,
    encoding: 'utf8',
  });
  return [...new Set(text.split('\n'))].filter((path) => path !== '' && existsSync(join(ROOT, path))).sort();
}

export function read(path: string): string {
  return readFileSync(join(ROOT, path), 'utf8');
}

/** What a TypeScript file imports, statically or not: specifiers as written, type-only imports included. */
export function importsOf(text: string): string[] {
  return ts.preProcessFile(text, true, true).importedFiles.map((file) => file.fileName);
}

/** What is loaded with a TypeScript file: its static imports and re-exports of values, without types and `import()`. */
export function loadedWith(text: string): string[] {
  const { statements } = ts.createSourceFile('file.ts', text, ts.ScriptTarget.Latest);
  return statements.flatMap((statement) => {
    const isImport = ts.isImportDeclaration(statement);
    if (!isImport && !ts.isExportDeclaration(statement)) return [];
    const clause = isImport ? statement.importClause : statement;
    const names = isImport ? statement.importClause?.namedBindings : statement.exportClause;
    const isNamed = names !== undefined && (ts.isNamedImports(names) || ts.isNamedExports(names));
    const hasDefault = isImport && statement.importClause?.name !== undefined;
    const onlyTypes = isNamed && !hasDefault && names.elements.every((element) => element.isTypeOnly);
    if (statement.moduleSpecifier === undefined || clause?.isTypeOnly || onlyTypes) return [];
    return [(statement.moduleSpecifier as ts.StringLiteral).text];
  });
}

/** The file that a relative import in `path` means, as a path from the root; null for packages. */
export function resolveImport(path: string, specifier: string): string | null {
  if (!specifier.startsWith('.')) return null;
  return posix.join(posix.dirname(path), specifier).replace(/\.js$/, '.ts');
}
