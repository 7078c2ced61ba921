// Sends and receives as operators, as the collectives of collectives.cc are: a group's id in, the id of a work out.
#include <torch/library.h>

#include "error.h"
#include "wire_tensors.h"
#include "works.h"

namespace shardloop {
namespace {

void check_peer(const Group& group, int64_t peer) {
  if (peer < 0 || peer >= group.backend->getSize() || peer == group.backend->getRank())
    throw Error("BAD_ARGUMENT", "rank " + std::to_string(peer) + " is no other rank of the group");
}

int64_t send(at::Tensor tensor, int64_t to, int64_t tag, int64_t group_id) {
  auto group = find_group(group_id);
  check_peer(*group, to);
  check(tensor);
  Launch launch(group, "send", "to " + std::to_string(to) + ", tag " + std::to_string(tag), {tensor}, 1, true);
  std::vector<at::Tensor> one{carried(tensor)};
  // Gloo's sends and receives have no future.
  return launch.track({group->backend->send(one, static_cast<int>(to), static_cast<int>(tag))}, Completion::kByWaiting);
}

int64_t receive(at::Tensor tensor, int64_t from, int64_t tag, int64_t group_id) {
  auto group = find_group(group_id);
  check_peer(*group, from);
  check(tensor);
  Launch launch(group, "receive", "from " + std::to_string(from) + ", tag " + std::to_string(tag), {tensor}, 1, true);
  std::vector<at::Tensor> one{carried(tensor)};
  return launch.track({group->backend->recv(one, static_cast<int>(from), static_cast<int>(tag))},
                      Completion::kByWaiting);
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(shardloop, m) {
  m.def("send(Tensor tensor, int to, int tag, int group) -> int", &send);
  m.def("receive(Tensor(a!) tensor, int source, int tag, int group) -> int", &receive);
}

}  // namespace shardloop
