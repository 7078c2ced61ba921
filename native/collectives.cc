// The collectives as operators: each takes the id of a group, launches on it, and returns the id of a work.
// Policy (which shapes may meet, messages) is lib/dist's; here types and lifetimes are asserted.
// Sends and receives stand in point_to_point.cc.
#include <ATen/Functions.h>
#include <torch/library.h>

#include <cstring>

#include "error.h"
#include "wire_tensors.h"
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

void check_root(const Group& group, int64_t root) {
  if (root < 0 || root >= group.backend->getSize())
    throw Error("BAD_ARGUMENT", "root " + std::to_string(root) + " is no rank of the group");
}

std::string to_root(int64_t root) { return "root " + std::to_string(root); }

bool alike(const std::vector<at::Tensor>& tensors) {
  for (auto& tensor : tensors)
    if (tensor.scalar_type() != tensors[0].scalar_type() || tensor.device() != tensors[0].device()) return false;
  return true;
}

int64_t all_reduce(at::TensorList list, const std::string& op, int64_t group_id) {
  auto group = find_group(group_id);
  auto tensors = checked(list);
  check_apart(tensors, {}, -1, 1);
  Launch launch(group, "all_reduce", op, tensors, tensors.size());
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
  return launch.track(std::move(works));
}

int64_t reduce(at::Tensor tensor, int64_t root, const std::string& op, int64_t group_id) {
  auto group = find_group(group_id);
  check(tensor);
  check_root(*group, root);
  c10d::ReduceOptions options;
  options.reduceOp = reduce_op(op);
  options.rootRank = root;
  Launch launch(group, "reduce", op + ", " + to_root(root), {tensor}, 1);
  // Gloo leaves partial results in the tensors of the other ranks: these lend a copy. It has no average here.
  const bool is_root = root == group->backend->getRank();
  const bool average = op == "avg" && !group->works_on_streams;
  if (average) options.reduceOp = c10d::ReduceOp::SUM;
  std::vector<at::Tensor> one{is_root || group->works_on_streams ? tensor : tensor.clone()};
  std::function<void()> finish;
  if (average && is_root) {
    finish = [tensor, size = group->backend->getSize()]() mutable {
      at::NoGradGuard no_grad;
      tensor.div_(size);
    };
  }
  return launch.track({group->backend->reduce(one, options)}, Completion::kByFuture, finish);
}

int64_t broadcast(at::TensorList list, int64_t root, int64_t group_id) {
  auto group = find_group(group_id);
  check_root(*group, root);
  auto tensors = checked(list);
  check_apart(tensors, {}, -1, 1);
  Launch launch(group, "broadcast", to_root(root), tensors, tensors.size());
  c10d::BroadcastOptions options;
  options.rootRank = root;
  std::vector<WorkPtr> works;
  for (auto& tensor : tensors) {
    std::vector<at::Tensor> one{carried(tensor)};
    works.push_back(group->backend->broadcast(one, options));
  }
  return launch.track(std::move(works));
}

int64_t all_gather(at::TensorList output_list, at::TensorList input_list, int64_t group_id) {
  auto group = find_group(group_id);
  auto outputs = checked(output_list), inputs = checked(input_list);
  check_shards(outputs, inputs, group->backend->getSize());
  check_apart(outputs, inputs, group->backend->getRank(), group->backend->getSize());
  auto keep = inputs;
  keep.insert(keep.end(), outputs.begin(), outputs.end());
  Launch launch(group, "all_gather", "", keep, inputs.size());
  std::vector<WorkPtr> works;
  for (size_t i = 0; i < inputs.size(); ++i) {
    at::Tensor output = carried(outputs[i]).view(-1), input = carried(inputs[i]).view(-1);  // Gloo refuses scalars
    works.push_back(group->backend->_allgather_base(output, input));
  }
  return launch.track(std::move(works));
}

// One output for each rank, of that rank's own shape. Gloo gathers equal parts only: each rank broadcasts its own.
int64_t all_gather_uneven(at::TensorList output_list, at::Tensor input, int64_t group_id) {
  auto group = find_group(group_id);
  auto outputs = checked(output_list);
  check(input);
  const int rank = group->backend->getRank(), size = group->backend->getSize();
  if (static_cast<int>(outputs.size()) != size || outputs[rank].numel() != input.numel() ||
      outputs[rank].scalar_type() != input.scalar_type())
    throw Error("BAD_ARGUMENT",
                "an uneven gather needs an output for each rank, and this rank's as large as its input");
  auto keep = outputs;
  keep.insert(keep.begin(), input);
  std::swap(outputs[0], outputs[rank]);  // pairs this rank's output with the input
  check_apart(outputs, {input}, 0, 1);
  std::swap(outputs[0], outputs[rank]);
  Launch launch(group, "all_gather_uneven", "", keep, 0);
  {
    at::NoGradGuard no_grad;
    outputs[rank].view(-1).copy_(input.view(-1));
  }
  std::vector<WorkPtr> works;
  for (int root = 0; root < size; ++root) {
    if (outputs[root].numel() == 0) continue;
    c10d::BroadcastOptions options;
    options.rootRank = root;
    std::vector<at::Tensor> one{carried(outputs[root])};
    works.push_back(group->backend->broadcast(one, options));
  }
  return launch.track(std::move(works));
}

int64_t reduce_scatter(at::TensorList output_list, at::TensorList input_list, const std::string& op, int64_t group_id) {
  auto group = find_group(group_id);
  auto outputs = checked(output_list), inputs = checked(input_list);
  check_shards(inputs, outputs, group->backend->getSize());
  check_apart(outputs, inputs, group->backend->getRank(), group->backend->getSize());
  auto keep = inputs;
  keep.insert(keep.end(), outputs.begin(), outputs.end());
  Launch launch(group, "reduce_scatter", op, keep, inputs.size());
  c10d::ReduceScatterOptions options;
  options.reduceOp = reduce_op(op);
  std::vector<WorkPtr> works;
  const std::string backend = group->backend->getBackendName();
  if (backend != "gloo" || !inputs[0].is_cpu() || !alike(inputs)) {
    for (size_t i = 0; i < inputs.size(); ++i) {
      // Axis 0 of both is read unasked, and a scalar has none.
      at::Tensor output = outputs[i].detach().view(-1), input = inputs[i].detach().view(-1);
      works.push_back(group->backend->_reduce_scatter_base(output, input, options));
    }
    const bool by_waiting = backend != "shm" || !inputs[0].is_cpu();
    return launch.track(std::move(works), by_waiting ? Completion::kByWaiting : Completion::kByFuture);
  }
  // Gloo reduces all of a copy, and c10d would pick this rank's part out of it in wait(), which takes a waiting thread
  // for each operation. The same here, with the last part done by the thread that completes the work.
  c10d::AllreduceOptions whole_options;
  whole_options.reduceOp = reduce_op(op);
  std::vector<at::Tensor> sums;
  for (const at::Tensor& input : inputs) {
    sums.push_back(input.detach().clone());
    std::vector<at::Tensor> one{sums.back()};
    works.push_back(group->backend->allreduce(one, whole_options));
  }
  auto pick = [outputs, sums, rank = group->backend->getRank()] {
    for (size_t i = 0; i < sums.size(); ++i) {
      const size_t bytes = outputs[i].nbytes();
      if (bytes > 0)
        std::memcpy(outputs[i].mutable_data_ptr(), static_cast<const char*>(sums[i].const_data_ptr()) + rank * bytes,
                    bytes);
    }
  };
  return launch.track(std::move(works), Completion::kByFuture, pick);
}

// Row counts of the parts to and from each rank along axis 0; empty: equal parts.
int64_t all_to_all(at::Tensor output, at::Tensor input, std::vector<int64_t> output_rows,
                   std::vector<int64_t> input_rows, int64_t group_id) {
  auto group = find_group(group_id);
  check(output);
  check(input);
  check_apart({output}, {input}, -1, 1);
  Launch launch(group, "all_to_all", "", {input, output}, output_rows.empty() ? 1 : 0);
  // Rows stay rows where elements go as bytes.
  const auto by_rows = [](const at::Tensor& tensor) {
    const at::Tensor bytes = carried(tensor);
    const int64_t rows = tensor.dim() > 0 ? tensor.size(0) : 0;
    return rows == 0 ? bytes.view(-1) : bytes.view({rows, bytes.numel() / rows});
  };
  at::Tensor to = by_rows(output), from = by_rows(input);
  return launch.track({group->backend->alltoall_base(to, from, output_rows, input_rows)});
}

int64_t gather(std::optional<at::Tensor> output, at::Tensor input, int64_t root, int64_t group_id) {
  auto group = find_group(group_id);
  check_root(*group, root);
  check(input);
  const bool is_root = root == group->backend->getRank();
  if (is_root) check_shards({output.value_or(at::Tensor())}, {input}, group->backend->getSize());
  if (is_root) check_apart({*output}, {input}, group->backend->getRank(), group->backend->getSize());
  std::vector<at::Tensor> keep{input};
  if (is_root) keep.push_back(*output);
  Launch launch(group, "gather", to_root(root), keep, 1);
  std::vector<std::vector<at::Tensor>> outputs;
  if (is_root) outputs.push_back(parts(carried(*output), group->backend->getSize()));
  std::vector<at::Tensor> inputs{carried(input).view(-1)};  // in the shape of the parts
  c10d::GatherOptions options;
  options.rootRank = root;
  return launch.track({group->backend->gather(outputs, inputs, options)});
}

int64_t scatter(at::Tensor output, std::optional<at::Tensor> input, int64_t root, int64_t group_id) {
  auto group = find_group(group_id);
  check_root(*group, root);
  check(output);
  const bool is_root = root == group->backend->getRank();
  if (is_root) check_shards({input.value_or(at::Tensor())}, {output}, group->backend->getSize());
  if (is_root) check_apart({output}, {*input}, group->backend->getRank(), group->backend->getSize());
  std::vector<at::Tensor> keep{output};
  if (is_root) keep.push_back(*input);
  Launch launch(group, "scatter", to_root(root), keep, 1);
  std::vector<std::vector<at::Tensor>> inputs;
  if (is_root) inputs.push_back(parts(carried(*input), group->backend->getSize()));
  std::vector<at::Tensor> outputs{carried(output).view(-1)};
  c10d::ScatterOptions options;
  options.rootRank = root;
  return launch.track({group->backend->scatter(outputs, inputs, options)});
}

// What the collectives check of memory, for a group of one, which has no engine.
void check_memory(at::TensorList outputs, at::TensorList inputs, bool in_place) {
  check_apart(outputs, inputs, in_place ? 0 : -1, 1);
}

int64_t barrier(int64_t group_id) {
  auto group = find_group(group_id);
  Launch launch(group, "barrier", "", {}, 0);
  return launch.track({group->backend->barrier()});
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(shardloop, m) {
  m.def("all_reduce(Tensor(a!)[] tensors, str op, int group) -> int", &all_reduce);
  m.def("reduce(Tensor(a!) tensor, int root, str op, int group) -> int", &reduce);
  m.def("broadcast(Tensor(a!)[] tensors, int root, int group) -> int", &broadcast);
  m.def("all_gather(Tensor(a!)[] outputs, Tensor[] inputs, int group) -> int", &all_gather);
  m.def("all_gather_uneven(Tensor(a!)[] outputs, Tensor input, int group) -> int", &all_gather_uneven);
  m.def("reduce_scatter(Tensor(a!)[] outputs, Tensor[] inputs, str op, int group) -> int", &reduce_scatter);
  m.def("all_to_all(Tensor(a!) output, Tensor input, int[] output_rows, int[] input_rows, int group) -> int",
        &all_to_all);
  m.def("gather(Tensor(a!)? output, Tensor input, int root, int group) -> int", &gather);
  m.def("scatter(Tensor(a!) output, Tensor? input, int root, int group) -> int", &scatter);
  m.def("check_memory(Tensor[] outputs, Tensor[] inputs, bool in_place) -> ()", &check_memory);
  m.def("barrier(int group) -> int", &barrier);
}

}  // namespace shardloop
