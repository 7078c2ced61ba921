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
#include <string>
#include <tuple>
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

// No table has more: the place of an element is a 64-bit number.
constexpr int64_t kMostRows = int64_t{1} << 31;

// Positions of ids (N) sorted by id, then by position, without negative ids; and where each id's begin, with the end of
// the last.
struct Order {
  std::vector<int64_t> positions, begins;
};

Order order_of(const int64_t* ids, int64_t count) {
  Order order;
  for (int64_t i = 0; i < count; ++i)
    if (ids[i] >= 0) order.positions.push_back(i);
  std::stable_sort(order.positions.begin(), order.positions.end(),
                   [&](int64_t a, int64_t b) { return ids[a] < ids[b]; });
  const auto found = static_cast<int64_t>(order.positions.size());
  for (int64_t i = 0; i < found; ++i)
    if (i == 0 || ids[order.positions[i]] != ids[order.positions[i - 1]]) order.begins.push_back(i);
  order.begins.push_back(found);
  return order;
}

// Elements `start` to `start + count` of a table in row-major order, which lie at `part`.
template <class Scalar>
void add_sums(const Order& order, const int64_t* ids, const Scalar* rows, int64_t width, Scalar* part, int64_t start,
              int64_t count) {
  using Wide = at::opmath_type<Scalar>;
  const auto groups = static_cast<int64_t>(order.begins.size()) - 1;
  parallel_for(groups, std::max<int64_t>(1, kGrain / std::max<int64_t>(1, width)), [&](int64_t first, int64_t end) {
    std::vector<Wide> sum(width);
    for (int64_t group = first; group < end; ++group) {
      const int64_t at = ids[order.positions[order.begins[group]]] * width - start;  // of the row, in the part
      const int64_t from = std::max<int64_t>(0, -at), to = std::min(width, count - at);
      if (from >= to) continue;
      std::fill(sum.begin(), sum.end(), Wide(0));
      for (int64_t i = order.begins[group]; i < order.begins[group + 1]; ++i) {
        const Scalar* row = rows + order.positions[i] * width;
        for (int64_t j = from; j < to; ++j) sum[j] += static_cast<Wide>(row[j]);
      }
      for (int64_t j = from; j < to; ++j) part[at + j] = static_cast<Scalar>(static_cast<Wide>(part[at + j]) + sum[j]);
    }
  });
}

// Adds rows (N, D) by ids (N) to a part of a table (V, D): the elements from `start` on in row-major order. A negative
// id is no row. Each row's sum is taken first, in the order of the ids.
void add_rows_(const Tensor& part, const Tensor& given_ids, const Tensor& given_rows, int64_t start) {
  const bool fits = part.dim() == 1 && part.is_contiguous() && given_rows.dim() == 2 && given_ids.dim() == 1 &&
                    given_ids.size(0) == given_rows.size(0) && at::isIntegralType(given_ids.scalar_type(), false) &&
                    part.scalar_type() == given_rows.scalar_type() && at::isFloatingType(part.scalar_type()) &&
                    given_ids.device() == part.device() && given_rows.device() == part.device() && start >= 0;
  if (!fits)
    throw Error(
        "BAD_ARGUMENT",
        "shardloop::add_rows_: expected a contiguous part (n), integer ids (N), rows (N, D) of the part's floating "
        "dtype, all on one device, and a start from 0.");
  if (part.is_meta()) return;
  const Tensor ids = given_ids.to(at::kLong).contiguous(), rows = given_rows.contiguous();
  const int64_t* id = ids.const_data_ptr<int64_t>();
  for (int64_t i = 0; i < ids.numel(); ++i)
    if (id[i] > kMostRows) throw Error("BAD_ARGUMENT", "shardloop::add_rows_: no table has so many rows.");
  const Order order = order_of(id, ids.numel());
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kHalf, at::kBFloat16, part.scalar_type(), "shardloop_add_rows", [&] {
    add_sums(order, id, rows.const_data_ptr<scalar_t>(), rows.size(1), part.mutable_data_ptr<scalar_t>(), start,
             part.numel());
  });
  part.unsafeGetTensorImpl()->bump_version();
}

// table[ids] += rows, for the gradient of a table: in place where it is dense; where it is sparse, which says that rows
// are wanted, the rows stand behind those that it has.
void add_to_gradient(const Tensor& table, const Tensor& there, const Tensor& given_ids, const Tensor& gradient) {
  const Tensor ids = given_ids.reshape({-1}).to(at::kLong);
  const Tensor rows = gradient.reshape({ids.numel(), table.size(1)});
  if (there.layout() == at::kStrided) return add_rows_(there.view({-1}), ids, rows, 0);
  const bool none = there._values().size(0) == 0;
  const Tensor places = none ? ids.unsqueeze(0).clone() : at::cat({there._indices(), ids.unsqueeze(0)}, 1);
  const Tensor values = none ? rows : at::cat({there._values(), rows});
  table.mutable_grad() = at::_sparse_coo_tensor_unsafe(places, values, table.sizes(), there.options());
}

void check_table(const char* op, const Tensor& table) {
  if (table.dim() != 2 || table.layout() != at::kStrided || !table.is_leaf() || !table.requires_grad())
    throw Error("BAD_ARGUMENT",
                std::string("shardloop::") + op + ": expected a table (rows, width), a leaf that requires grad.");
}

// From here on backward gives this table's gradient as rows: its gradient is sparse, and has none yet.
void expect_rows(const Tensor& table) {
  check_table("expect_rows", table);
  at::NoGradGuard no_grad;
  const Tensor data = table.detach();
  table.mutable_grad() = at::_sparse_coo_tensor_unsafe(at::empty({1, 0}, data.options().dtype(at::kLong)),
                                                       at::empty({0, data.size(1)}, data.options()), data.sizes(),
                                                       data.options().layout(at::kSparse));
}

// The ids (N) and rows (N, D) that came since expect_rows; the gradient goes.
std::tuple<Tensor, Tensor> take_rows(const Tensor& table) {
  check_table("take_rows", table);
  at::NoGradGuard no_grad;
  const Tensor gradient = table.grad();
  if (gradient.defined() && gradient.layout() != at::kSparse)
    throw Error(
        "BAD_ARGUMENT",
        "expected lookups alone of a table that a later segment reads too, and whose ids are few beside it; received "
        "another use of its weight besides. Give the other use a segment of its own behind that of the lookups.");
  table.mutable_grad() = Tensor();
  const auto options = table.detach().options();
  if (!gradient.defined()) return {at::empty({0}, options.dtype(at::kLong)), at::empty({0, table.size(1)}, options)};
  return {gradient._indices().squeeze(0), gradient._values()};
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
  const bool fits = there.defined() &&
                    (there.layout() == at::kStrided ? there.is_contiguous() : there.layout() == at::kSparse) &&
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
      const Tensor leaf = table->second.toTensor(), there = gradient_in_place(leaf, gradients[0]);
      if (there.defined()) {
        add_to_gradient(leaf, there, ids, gradients[0]);
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
  m.def("expect_rows(Tensor table) -> ()", torch::dispatch(c10::DispatchKey::CompositeImplicitAutograd, &expect_rows));
  m.def("take_rows(Tensor table) -> (Tensor, Tensor)",
        torch::dispatch(c10::DispatchKey::CompositeImplicitAutograd, &take_rows));
  m.def("add_rows_(Tensor(a!) part, Tensor ids, Tensor rows, int start) -> ()");
}

TORCH_LIBRARY_IMPL(shardloop, CPU, m) { m.impl("add_rows_", &add_rows_); }

TORCH_LIBRARY_IMPL(shardloop, Meta, m) { m.impl("add_rows_", &add_rows_); }

}  // namespace
}  // namespace shardloop
