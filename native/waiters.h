// Threads for calls that block until a peer or a store answers: kept for reuse, and never too few. A fixed number would
// not do, because what one waits for may come only after another's waiting was seen to end.
#pragma once
#include <functional>

namespace shardloop {

// Runs the function on a thread that has nothing else to do, a new one where none is idle. It must not throw.
void run_on_waiter(std::function<void()> function);

}  // namespace shardloop
