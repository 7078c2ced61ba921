// Which machines shardloop runs on: Linux x86-64 is tested, two more go through the same build untested, the rest is
// refused with a sentence. Not here: what else the machine lacks (toolchain.ts, diagnose.ts).
import { SetupError } from './errors.js';

/** The oldest Node that is supported, as [major, minor]. */
export const MIN_NODE = [20, 19] as const;

/** A platform that set-up goes on with; `note` is a sentence when it is untested. */
export interface Platform {
  readonly name: string;
  readonly tested: boolean;
  readonly note: string | null;
}

/**
 * The platform of this process (or of the one given). Throws UNSUPPORTED with a sentence where shardloop does not run.
 */
export function platform(
  os: string = process.platform,
  arch: string = process.arch,
  node: string = process.versions.node,
): Platform {
  const [major = 0, minor = 0] = node.split('.').map(Number);
  if (major < MIN_NODE[0] || (major === MIN_NODE[0] && minor < MIN_NODE[1])) {
    throw new SetupError(
      'UNSUPPORTED',
      `shardloop needs Node >= ${MIN_NODE.join('.')}; this is Node ${node}. Install a newer Node.`,
    );
  }
  const name = `${os} ${arch}`;
  if (name === 'linux x64') return { name: 'Linux x86-64', tested: true, note: null };
  const untested = name === 'linux arm64' ? 'Linux arm64' : os === 'darwin' ? `macOS ${arch}` : null;
  if (untested) {
    return {
      name: untested,
      tested: false,
      note: `${untested} goes through the same build as Linux x86-64 but is untested.`,
    };
  }
  throw new SetupError(
    'UNSUPPORTED',
    `shardloop runs on Linux x86-64 (tested), Linux arm64 and macOS (both untested); this is ${name}. On Windows, use WSL 2.`,
  );
}

/** How the dynamic libraries of this platform end. */
export function libraryName(stem: string, os: string = process.platform): string {
  return os === 'darwin' ? `lib${stem}.dylib` : `lib${stem}.so`;
}
