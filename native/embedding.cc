// shardloop::embedding: rows of a table by id, as aten::embedding gives them. A gradient of the table is as large as
// the table, and has as many rows as there are ids: where the table has a gradient already (of a head that shares it,
// or of the micro-batch before), the backward adds the rows to it in place, and makes none of its own. The sum of a row
// is taken first, in the order of the ids and wider than half precision, and added once: in float32 and float64
// bit-equal to a gradient of its own that is added.
#include <ATen/Dispatch.h>
#include <ATen/Functions.h>
#include <ATen/OpMathType.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/csrc/autograd/graph_task.h>
#include <torch/library.h>

#include <algorithm>
#include <numeric>
#include <string>
#include <vector>

#include "error.h"
#include "parallel.h"

namespace shardloop {
namespace {

using at::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// Elements that are worth a thread.
constexpr int64_t kGrain = 1 << 15;

// Positions of ids (N) sorted by id, then by position; and where each id's begin, with the end of the last.
struct Order {
  std::vector<int64_t> positions, begins;
};

Order order_of(const int64_t* ids, int64_t count) {
  Order order;
  order.positions.resize(count);
  std::iota(order.positions.begin(), order.positions.end(), 0);
  std::stable_sort(order.positions.begin(), order.positions.end(),
                   [&](int64_t a, int64_t b) { return ids[a] < ids[b]; });
  for (int64_t i = 0; i < count; ++i)
    if (i == 0 || ids[order.positions[i]] != ids[order.positions[i - 1]]) order.begins.push_back(i);
  order.begins.push_back(count);
  return order;
}

template <class Scalar>
void add_sums(const Order& order, const int64_t* ids, const Scalar* rows, int64_t width, Scalar* table) {
  using Wide = at::opmath_type<Scalar>;
  const auto groups = static_cast<int64_t>(order.begins.size()) - 1;
  parallel_for(groups, std::max<int64_t>(1, kGrain / std::max<int64_t>(1, width)), [&](int64_t from, int64_t to) {
    std::vector<Wide> sum(width);
    for (int64_t group = from; group < to; ++group) {
      std::fill(sum.begin(), sum.end(), Wide(0));
      for (int64_t i = order.begins[group]; i < order.begins[group + 1]; ++i) {
        const Scalar* row = rows + order.positions[i] * width;
        for (int64_t j = 0; j < width; ++j) sum[j] += static_cast<Wide>(row[j]);
      }
      Scalar* place = table + ids[order.positions[order.begins[group]]] * width;
      for (int64_t j = 0; j < width; ++j) place[j] = static_cast<Scalar>(static_cast<Wide>(place[j]) + sum[j]);
    }
  });
}

// table[ids] += rows, in place.
void add_rows(const Tensor& table, const Tensor& given_ids, const Tensor& gradient) {
  if (table.is_meta()) return;
  const Tensor ids = given_ids.reshape({-1}).to(at::kLong).contiguous();
  const Tensor rows = gradient.reshape({ids.numel(), table.size(1)}).contiguous();
  const int64_t* id = ids.const_data_ptr<int64_t>();
  for (int64_t i = 0; i < ids.numel(); ++i)
    if (id[i] < 0 || id[i] >= table.size(0))
      throw Error("BAD_ARGUMENT", "shardloop::embedding: an id changed to " + std::to_string(id[i]) +
                                      " between forward and backward; expected ids below " +
                                      std::to_string(table.size(0)) + ". Leave ids alone until the backward has run.");
  const Order order = order_of(id, ids.numel());
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kHalf, at::kBFloat16, table.scalar_type(), "shardloop_embedding_backward", [&] {
    add_sums(order, id, rows.const_data_ptr<scalar_t>(), table.size(1), table.mutable_data_ptr<scalar_t>());
  });
  table.unsafeGetTensorImpl()->bump_version();
}

// Whether the backward under way adds to the gradients of all leaves. Else somebody asked for gradients as values, or
// for those of some leaves: autograd must see this one.
bool adds_to_all_leaves() {
  const auto* wanted = torch::autograd::get_current_graph_task_exec_info();
  return wanted != nullptr && wanted->empty() && !at::GradMode::is_enabled();
}

// The gradient that a table has, where autograd itself would add another one to it in place; else undefined.
Tensor gradient_in_place(const Tensor& table, const Tensor& gradient) {
  if (!adds_to_all_leaves()) return {};
  const Tensor& there = table.grad();
  const bool fits = there.defined() && there.layout() == at::kStrided && there.is_contiguous() &&
                    !there.requires_grad() && there.scalar_type() == gradient.scalar_type() &&
                    there.device() == gradient.device() && there.sizes() == table.sizes();
  return fits ? there : Tensor();
}

struct Embedding : torch::autograd::Function<Embedding> {
  static Tensor forward(AutogradContext* context, const Tensor& table, const Tensor& ids) {
    at::AutoDispatchBelowADInplaceOrView below;
    context->save_for_backward({ids});
    context->saved_data["rows"] = table.size(0);
    // Not as a saved variable: its values are not needed, and may change before the backward.
    if (table.requires_grad() && table.is_leaf()) context->saved_data["table"] = table;
    return at::embedding(table, ids);
  }

  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    const Tensor ids = context->get_saved_variables()[0];
    const auto table = context->saved_data.find("table");
    if (table != context->saved_data.end()) {
      const Tensor there = gradient_in_place(table->second.toTensor(), gradients[0]);
      if (there.defined()) {
        add_rows(there, ids, gradients[0]);
        return {Tensor(), Tensor()};
      }
    }
    return {at::embedding_dense_backward(gradients[0], ids, context->saved_data["rows"].toInt(), -1, false), Tensor()};
  }
};

void check(const Tensor& table, const Tensor& ids) {
  if (table.dim() != 2 || !at::isFloatingType(table.scalar_type()) ||
      (ids.scalar_type() != at::kLong && ids.scalar_type() != at::kInt) || ids.device() != table.device() ||
      !(table.is_cpu() || table.is_meta()))
    throw Error(
        "BAD_ARGUMENT",
        "shardloop::embedding: expected a floating table (rows, width) and int64 or int32 ids, both on the CPU or "
        "both on the meta device.");
}

Tensor embedding(const Tensor& table, const Tensor& ids) {
  check(table, ids);
  return Embedding::apply(table, ids);
}

TORCH_LIBRARY_FRAGMENT(shardloop, m) {
  m.def("embedding(Tensor table, Tensor ids) -> Tensor",
        torch::dispatch(c10::DispatchKey::CompositeImplicitAutograd, &embedding));
}

}  // namespace
}  // namespace shardloop
