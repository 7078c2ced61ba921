// Threads for calls that block until a peer or a store answers: kept for reuse, and never too few. A fixed number would
// not do, because what one waits for may come only after another's waiting was seen to end.
#pragma once
#include <atomic>
#include <functional>

namespace shardloop {

// Runs the function on a thread that has nothing else to do, a new one where none is idle. It must not throw.
void run_on_waiter(std::function<void()> function);

// What a thread does before it sleeps until another thread of the process sets `done`: gives its processor away, for a
// millisecond at most. A processor that went idle takes longer to wake than a small operation takes, and threads wake
// each other several times in one: docs/log/2026-11-28-shm.md.
void yield_until(const std::atomic<bool>& done);

}  // namespace shardloop
