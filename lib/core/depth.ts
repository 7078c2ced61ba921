// The depth of open scopes, mirrored here so that making a Tensor costs no look across the door.
// Not here: which tensors a scope frees (native/environment) and which escape (scope.ts).
import { type Handle, native } from './binding.js';

/** How many scopes are open on this thread. */
export let scopeDepth = 0;

/** Opens a scope; the depth that {@link leaveScope} wants back. */
export function enterScope(): number {
  scopeDepth = native().scopePush();
  return scopeDepth;
}

/** Ends the scope of this depth: frees what was made in it except `escaping`, which must be alive. */
export function leaveScope(depth: number, escaping: Handle[]): void {
  scopeDepth = depth - 1;
  native().scopePop(depth, escaping);
}
