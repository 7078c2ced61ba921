// Works in flight: what a collective returned and how it ends; one process-wide table under one mutex.
//
// States of a work (an entry of the work table):
//   running    launched; the table holds its tensors and keeps them alive
//   finished   every c10d::Work of it is complete, or one failed; the error text is kept, the tensors are let go
//   gone       waited for, or released; its id is never used again
// A work finishes by c10d's future where the backend completes one with the data (Gloo), and by one polling thread
// where the future only means "enqueued on the stream" (NCCL). Nothing here blocks the event loop or libuv's pool.
#pragma once
#include <functional>
#include <string>
#include <vector>

#include "process_group.h"

namespace shardloop {

using WorkPtr = c10::intrusive_ptr<c10d::Work>;

// How a backend without streams tells that a work is complete.
enum class Completion {
  kByFuture,
  kByWaiting,  // the work has no future and does its last part in wait(): a thread of its own waits
};

// Puts launched works into the table; `keep` are the tensors that must outlive them. Returns the id.
int64_t track_works(const std::shared_ptr<Group>& group, std::vector<WorkPtr> works, std::vector<at::Tensor> keep,
                    Completion completion = Completion::kByFuture);

// Runs a blocking function on a thread of its own as a work. What it throws becomes the work's error.
int64_t run_as_work(std::function<void()> function);

// Calls back once, when the work is finished: at once, on the calling thread, where it already is. The text is empty on
// success. The work is gone afterwards. False: no such work.
bool on_work_finished(int64_t id, std::function<void(const std::string& error)> callback);

// The usable text of an exception: c10 errors without their backtrace.
std::string exception_text(const std::exception_ptr& exception);

}  // namespace shardloop
