// Works in flight: what a collective returned and how it ends; one process-wide table under one mutex.
//
// States of a work (an entry of the work table):
//   running    launched; the table holds its tensors and keeps them alive
//   finished   every c10d::Work of it is complete, or one failed, or the group did; the error text is kept, the tensors
//              are let go
//   gone       waited for, or released; its id is never used again
// A work finishes by c10d's future where the backend completes one with the data (Gloo), and by one polling thread
// where the future only means "enqueued on the stream" (NCCL). Nothing here blocks the event loop or libuv's pool.
#pragma once
#include <functional>
#include <string>
#include <thread>
#include <vector>

#include "process_group.h"

namespace shardloop {

using WorkPtr = c10::intrusive_ptr<c10d::Work>;

// An operation that may run on the thread that waits for it, within wait(); abort() ends it from another thread. Others
// are not waited for twice: a send of Gloo's would hang the second time.
class RunByWaiter : public c10d::Work {
 public:
  using Work::Work;
};

// How a backend without streams tells that a work is complete.
enum class Completion {
  kByFuture,
  kByWaiting,  // the work has no future and does its last part in wait(): a waiter (waiters.h) waits
};

// One operation of a group from its record to its works. Made before the backend is called; when that throws, the
// record says so.
class Launch {
 public:
  // Throws COLLECTIVE_FAILED when the group failed before. `tensors` are kept until the operation is finished; the
  // first `alike` of them have the same shapes on every rank and go into the record.
  Launch(std::shared_ptr<Group> group, const char* operation, std::string detail, std::vector<at::Tensor> tensors,
         size_t alike, bool between_two = false);
  ~Launch();
  Launch(const Launch&) = delete;

  // Puts the works into the table; `finish` is called with them done, before anybody is told. Returns the id.
  int64_t track(std::vector<WorkPtr> works, Completion completion = Completion::kByFuture,
                std::function<void()> finish = nullptr);

 private:
  std::shared_ptr<Group> group_;
  std::vector<at::Tensor> keep_;
  uint64_t index_;
  bool tracked_ = false;
};

// Ends every operation of the group that is not finished with this text, and refuses later ones: connections may hang
// for long after one rank failed. The first text stays.
void fail_group(const std::shared_ptr<GroupState>& state, const std::string& text);
// The same for every group that has operations in flight, when the backend does not say which one broke.
void fail_groups_in_flight(const std::string& text);

// The net below a backend's own timeouts: ends what is beyond its deadline by more than `grace`.
void fail_overdue(std::chrono::milliseconds grace);

// Runs a blocking function on a waiter as a work. What it throws becomes the work's error.
int64_t run_as_work(std::function<void()> function);

// Lets go of a work that nobody waits for, or of all that a thread has launched; each runs to its end.
void release_work(int64_t id);
void release_works_of(std::thread::id owner);

// Calls back once, when the work is finished: at once, on the calling thread, where it already is. The text is empty on
// success. The work is gone afterwards. False: no such work.
bool on_work_finished(int64_t id, std::function<void(const std::string& error)> callback);

// The usable text of an exception: c10 errors without their backtrace.
std::string exception_text(const std::exception_ptr& exception);

}  // namespace shardloop
