// The watch over open groups: one thread a process, which writes what each group did last into the group's store, so
// that others can read it when this rank hangs, and which ends this rank's operations soon after any other rank's fail.
//
// A group is watched from watch() to unwatch(). Its keys in the store, behind the group's own prefix:
//   status/RANK  what FlightRecorder::json gives, with "beat" (grows) and "left" (the rank closed the group)
//   ask          a counter; whoever raises it wants every status anew
//   failure      the first failure of the group: {"rank": r, "text": "..."}
#pragma once
#include <string>
#include <vector>

#include "process_group.h"

namespace shardloop {

void watch(const Group& group);
// The last status says that the rank left. Does not wait for a store that does not answer.
void unwatch(const Group& group);

// What every rank's status says, by rank: "" where nothing is known. Each begins with "+" when the rank answered just
// now (it is alive, whatever its JavaScript does), "-" when it did not. Empty: the store did not answer.
std::vector<std::string> ask_ranks(const Group& group);

// Tells the other ranks that the group failed here, unless some rank said so before. Returns the first failure as JSON;
// empty: the store did not answer.
std::string tell_failure(const Group& group, const std::string& text);

}  // namespace shardloop
