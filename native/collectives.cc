// The collectives as operators: each takes the id of a group, launches on it, and returns the id of a work.
// Policy (which shapes may meet, messages, sequence numbers) is lib/dist's; here types and lifetimes are asserted.
#include <torch/library.h>

#include "error.h"
#include "works.h"

namespace shardloop {
namespace {

c10d::ReduceOp reduce_op(const std::string& name) {
  if (name == "sum") return c10d::ReduceOp::SUM;
  if (name == "avg") return c10d::ReduceOp::AVG;
  if (name == "min") return c10d::ReduceOp::MIN;
  if (name == "max") return c10d::ReduceOp::MAX;
  if (name == "product") return c10d::ReduceOp::PRODUCT;
  throw Error("BAD_ARGUMENT", "reduce operation '" + name + "' is none of sum, avg, min, max, product");
}

void check(const at::Tensor& tensor) {
  if (!tensor.defined() || tensor.layout() != at::kStrided || !tensor.is_contiguous())
    throw Error("BAD_ARGUMENT", "a collective needs a contiguous, dense tensor");
}

void check_root(const Group& group, int64_t root) {
  if (root < 0 || root >= group.backend->getSize())
    throw Error("BAD_ARGUMENT", "root " + std::to_string(root) + " is no rank of the group");
}

bool alike(const std::vector<at::Tensor>& tensors) {
  for (auto& tensor : tensors)
    if (tensor.scalar_type() != tensors[0].scalar_type() || tensor.device() != tensors[0].device()) return false;
  return true;
}

int64_t all_reduce(at::TensorList list, const std::string& op, int64_t group_id) {
  auto group = find_group(group_id);
  auto tensors = list.vec();
  for (auto& tensor : tensors) check(tensor);
  std::vector<WorkPtr> works;
  if (tensors.size() > 1 && alike(tensors)) {
    c10d::AllreduceCoalescedOptions options;
    options.reduceOp = reduce_op(op);
    works.push_back(group->backend->allreduce_coalesced(tensors, options));
  } else {
    c10d::AllreduceOptions options;
    options.reduceOp = reduce_op(op);
    for (auto& tensor : tensors) {
      std::vector<at::Tensor> one{tensor};
      works.push_back(group->backend->allreduce(one, options));
    }
  }
  return track_works(group, std::move(works), std::move(tensors));
}

int64_t broadcast(at::TensorList list, int64_t root, int64_t group_id) {
  auto group = find_group(group_id);
  check_root(*group, root);
  auto tensors = list.vec();
  for (auto& tensor : tensors) check(tensor);
  c10d::BroadcastOptions options;
  options.rootRank = root;
  std::vector<WorkPtr> works;
  for (auto& tensor : tensors) {
    std::vector<at::Tensor> one{tensor};
    works.push_back(group->backend->broadcast(one, options));
  }
  return track_works(group, std::move(works), std::move(tensors));
}

void check_shards(const Group& group, const at::Tensor& whole, const at::Tensor& shard) {
  check(whole);
  check(shard);
  if (whole.scalar_type() != shard.scalar_type() || whole.numel() != shard.numel() * group.backend->getSize())
    throw Error("BAD_ARGUMENT", "the whole tensor must hold size times the shard's elements, in the same dtype");
}

int64_t all_gather(at::Tensor output, at::Tensor input, int64_t group_id) {
  auto group = find_group(group_id);
  check_shards(*group, output, input);
  auto work = group->backend->_allgather_base(output, input);
  return track_works(group, {work}, {output, input});
}

int64_t reduce_scatter(at::Tensor output, at::Tensor input, const std::string& op, int64_t group_id) {
  auto group = find_group(group_id);
  check_shards(*group, input, output);
  c10d::ReduceScatterOptions options;
  options.reduceOp = reduce_op(op);
  auto work = group->backend->_reduce_scatter_base(output, input, options);
  // Gloo reduces into a copy and picks this rank's part out of it in wait().
  return track_works(group, {work}, {output, input}, Completion::kByWaiting);
}

int64_t barrier(int64_t group_id) {
  auto group = find_group(group_id);
  return track_works(group, {group->backend->barrier()}, {});
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(shardloop, m) {
  m.def("all_reduce(Tensor(a!)[] tensors, str op, int group) -> int", &all_reduce);
  m.def("broadcast(Tensor(a!)[] tensors, int root, int group) -> int", &broadcast);
  m.def("all_gather(Tensor(a!) output, Tensor input, int group) -> int", &all_gather);
  m.def("reduce_scatter(Tensor(a!) output, Tensor input, str op, int group) -> int", &reduce_scatter);
  m.def("barrier(int group) -> int", &barrier);
}

}  // namespace shardloop
