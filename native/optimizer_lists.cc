#include "optimizer_lists.h"

#include <ATen/MemoryOverlap.h>
#include <ATen/core/grad_mode.h>

#include <algorithm>
#include <cmath>
#include <sstream>

#include "error.h"

namespace shardloop {
namespace {

[[noreturn]] void refuse(const char* op, const std::string& text) {
  throw Error("BAD_ARGUMENT", std::string(op) + ": " + text);
}

std::string at_index(const char* list, size_t i) { return std::string(list) + "[" + std::to_string(i) + "]"; }

template <class T>
std::string text_of(const T& value) {
  std::ostringstream out;
  out << value;
  return out.str();
}

bool is_half(Kind kind) { return kind == Kind::bf16 || kind == Kind::f16; }

bool is_dense(const at::Tensor& tensor) { return tensor.is_contiguous() || tensor.is_non_overlapping_and_dense(); }

bool ordered_alike(const at::Tensor& a, const at::Tensor& b) {
  return (a.is_contiguous() && b.is_contiguous()) || (is_dense(a) && a.strides() == b.strides());
}

// Memory that a step reads or writes.
struct Range {
  uintptr_t begin, end;
  bool is_written;
  const char* list;
  size_t index;
};

// What is written must not share memory with anything else of the step: rows of it run at the same time.
void check_separate(const char* op, std::vector<Range>& ranges) {
  std::sort(ranges.begin(), ranges.end(), [](const Range& a, const Range& b) { return a.begin < b.begin; });
  const Range* farthest = nullptr;          // ends last of those before
  const Range* farthest_written = nullptr;  // the same of those that are written
  for (const Range& range : ranges) {
    const Range* other = range.is_written ? farthest : farthest_written;
    if (other != nullptr && range.begin < other->end) {
      refuse(op, "expected tensors that share no memory; " + at_index(other->list, other->index) + " and " +
                     at_index(range.list, range.index) + " do. Give each tensor once.");
    }
    if (farthest == nullptr || range.end > farthest->end) farthest = &range;
    if (range.is_written && (farthest_written == nullptr || range.end > farthest_written->end))
      farthest_written = &range;
  }
}

// One list of a step, with what is expected of all its tensors.
struct List {
  const char* name;
  at::TensorList tensors;
  bool is_written;
};

class Preparation {
 public:
  Preparation(const char* op, const StepLists& lists, Step& step) : op_(op), step_(step) {
    static constexpr const char* kStates[] = {"states", "second states"};
    lists_.push_back({"masters", lists.masters, true});
    lists_.push_back({"parameters", lists.parameters, true});
    lists_.push_back({"gradients", lists.gradients, false});
    for (size_t i = 0; i < lists.states.size(); ++i) lists_.push_back({kStates[i], lists.states[i], true});
  }

  void run() {
    const at::TensorList masters = lists_[0].tensors;
    if (masters.empty()) return;
    for (const List& list : lists_) check_list(list, masters);
    check_kinds();
    std::vector<Range> ranges;
    ranges.reserve(lists_.size() * masters.size());
    step_.items.reserve(masters.size());
    for (size_t i = 0; i < masters.size(); ++i) {
      if (masters[i].numel() == 0) continue;
      for (const List& list : lists_) {
        if (!list.tensors.empty()) ranges.push_back(range_of(list, i));
      }
      add_item(i);
      step_.numel += masters[i].numel();
    }
    check_separate(op_, ranges);
  }

 private:
  void check_list(const List& list, at::TensorList masters) {
    if (list.tensors.empty() && list.name == lists_[1].name) return;  // no half-precision copies
    if (list.tensors.size() != masters.size()) {
      refuse(op_, std::string("expected lists of one length, received ") + std::to_string(masters.size()) +
                      " masters and " + std::to_string(list.tensors.size()) + " " + list.name + ".");
    }
    const at::ScalarType dtype = list.tensors[0].scalar_type();
    step_.device = masters[0].device();
    for (size_t i = 0; i < masters.size(); ++i) {
      const at::Tensor& tensor = list.tensors[i];
      if (tensor.layout() != at::kStrided || tensor.device() != step_.device || tensor.scalar_type() != dtype) {
        refuse(op_, "expected dense tensors of one dtype on " + step_.device.str() + ", received " +
                        at_index(list.name, i) + " of " + text_of(tensor.scalar_type()) + " and " +
                        text_of(tensor.layout()) + " on " + tensor.device().str() + " in a list of " + text_of(dtype) +
                        ".");
      }
      if (tensor.sizes() != masters[i].sizes()) {
        refuse(op_, "expected " + at_index(list.name, i) + " of shape " + text_of(masters[i].sizes()) + ", received " +
                        text_of(tensor.sizes()) + ".");
      }
      if (!list.is_written) continue;
      if (tensor.is_neg() || tensor._is_zerotensor() || at::has_internal_overlap(tensor) == at::MemOverlap::Yes)
        refuse(op_, "expected " + at_index(list.name, i) + " to have memory for each element; it has not (expand()).");
      if (tensor.requires_grad() && at::GradMode::is_enabled()) {
        refuse(op_, at_index(list.name, i) + " requires a gradient and is updated in place; call it in noGrad().");
      }
    }
  }

  void check_kinds() {
    const auto kind = [&](size_t i) {
      return lists_[i].tensors.empty() ? Kind::none : kind_of(lists_[i].tensors[0].scalar_type());
    };
    step_.kinds = {kind(0), kind(1), kind(2)};
    const auto [master, parameter, gradient] = step_.kinds;
    if (master == Kind::none || gradient == Kind::none) {
      refuse(op_, "expected masters and gradients of float64, float32, bfloat16 or float16, received " +
                      text_of(lists_[0].tensors[0].scalar_type()) + " and " +
                      text_of(lists_[2].tensors[0].scalar_type()) + ".");
    }
    if (!lists_[1].tensors.empty() && (master != Kind::f32 || !is_half(parameter))) {
      refuse(op_, "expected parameters of bfloat16 or float16 beside masters of float32, received " +
                      text_of(lists_[1].tensors[0].scalar_type()) + " beside " +
                      text_of(lists_[0].tensors[0].scalar_type()) + ".");
    }
    if (gradient == Kind::f64 && master != Kind::f64)
      refuse(op_, "expected gradients of at most float32, received float64 for " +
                      text_of(lists_[0].tensors[0].scalar_type()) + " masters.");
    for (size_t i = 3; i < lists_.size(); ++i) {
      if (kind(i) != master) {
        refuse(op_, "expected states of the masters' dtype, received " + text_of(lists_[i].tensors[0].scalar_type()) +
                        " for " + text_of(lists_[0].tensors[0].scalar_type()) + " masters.");
      }
    }
  }

  // Of a tensor with holes only its first element counts: the memory between may be another parameter's.
  Range range_of(const List& list, size_t i) const {
    const at::Tensor& tensor = list.tensors[i];
    if (tensor._is_zerotensor()) return {0, 0, false, list.name, i};
    const auto begin = reinterpret_cast<uintptr_t>(tensor.const_data_ptr());
    const int64_t elements = is_dense(tensor) ? tensor.numel() : 1;
    return {begin, begin + static_cast<size_t>(elements) * tensor.element_size(), list.is_written, list.name, i};
  }

  void add_item(size_t i) {
    const at::Tensor& master = lists_[0].tensors[i];
    bool alike = true;
    for (const List& list : lists_) {
      if (!list.tensors.empty()) alike = alike && ordered_alike(master, list.tensors[i]) && !lacks_values(list, i);
    }
    void* at[5] = {};
    for (size_t k = 0; k < lists_.size(); ++k) {
      if (lists_[k].tensors.empty()) continue;
      const at::Tensor& tensor = alike ? lists_[k].tensors[i] : stand_in(lists_[k], i);
      at[k] = const_cast<void*>(tensor.const_data_ptr());
    }
    step_.items.push_back({at[0], at[1], at[2], {at[3], at[4]}, master.numel()});
  }

  static bool lacks_values(const List& list, size_t i) {
    return !list.is_written && (list.tensors[i].is_neg() || list.tensors[i]._is_zerotensor());
  }

  const at::Tensor& stand_in(const List& list, size_t i) {
    const at::Tensor& tensor = list.tensors[i];
    if (tensor.is_contiguous() && !lacks_values(list, i)) return tensor;
    step_.stand_ins.push_back(tensor.detach().clone(at::MemoryFormat::Contiguous).resolve_neg());
    if (list.is_written) step_.back.emplace_back(tensor, step_.stand_ins.back());
    return step_.stand_ins.back();
  }

  const char* op_;
  Step& step_;
  std::vector<List> lists_;
};

void check_finite(const char* op, const char* name, double value) {
  if (!std::isfinite(value)) refuse(op, std::string("expected a finite ") + name + ".");
}

}  // namespace

Kind kind_of(at::ScalarType type) {
  switch (type) {
    case at::kDouble: return Kind::f64;
    case at::kFloat: return Kind::f32;
    case at::kBFloat16: return Kind::bf16;
    case at::kHalf: return Kind::f16;
    default: return Kind::none;
  }
}

Step prepare_step(const char* op, const StepLists& lists, const Settings& settings) {
  check_finite(op, "lr", settings.lr);
  check_finite(op, "grad_scale", settings.scale);
  Step step;
  step.settings = settings;
  // A stand-in's address must hold while more are added.
  step.stand_ins.reserve(lists.masters.size() * (3 + lists.states.size()));
  Preparation(op, lists, step).run();
  return step;
}

void finish_step(const Step& step, const StepLists& lists) {
  at::NoGradGuard no_grad;
  for (const auto& [original, stand_in] : step.back) original.detach().copy_(stand_in);
  const auto bump = [](at::TensorList tensors) {
    for (const at::Tensor& tensor : tensors) {
      if (!tensor.is_inference()) tensor.unsafeGetTensorImpl()->bump_version();
    }
  };
  bump(lists.masters);
  bump(lists.parameters);
  for (const at::TensorList& states : lists.states) bump(states);
}

std::vector<at::Tensor> prepare_gradients(const char* op, at::TensorList gradients) {
  std::vector<at::Tensor> dense;
  dense.reserve(gradients.size());
  for (size_t i = 0; i < gradients.size(); ++i) {
    const at::Tensor& gradient = gradients[i];
    if (gradient.layout() != at::kStrided || kind_of(gradient.scalar_type()) == Kind::none ||
        gradient.device() != gradients[0].device()) {
      refuse(op, "expected dense floating-point tensors on one device, received " + at_index("gradients", i) + " of " +
                     text_of(gradient.scalar_type()) + " on " + gradient.device().str() + ".");
    }
    const bool plain = is_dense(gradient) && !gradient.is_neg() && !gradient._is_zerotensor();
    dense.push_back(plain ? gradient : gradient.detach().clone(at::MemoryFormat::Contiguous).resolve_neg());
  }
  return dense;
}

Settings adamw_settings(double lr, double beta1, double beta2, double eps, double weight_decay, double correction1,
                        double correction2, double grad_scale) {
  Settings settings{Rule::adamw, 2};
  settings.scale = grad_scale;
  settings.lr = lr / correction1;
  settings.keep = 1 - lr * weight_decay;
  settings.beta1 = beta1;
  settings.beta2 = beta2;
  settings.root = 1 / std::sqrt(correction2);
  settings.eps = eps;
  return settings;
}

Settings sgd_settings(double lr, double momentum, double weight_decay, bool nesterov, double grad_scale, bool buffers) {
  Settings settings{Rule::sgd, buffers ? 1 : 0};
  settings.scale = grad_scale;
  settings.lr = lr;
  settings.momentum = momentum;
  settings.decay = weight_decay;
  settings.nesterov = nesterov;
  return settings;
}

Settings lion_settings(double lr, double beta1, double beta2, double weight_decay, double grad_scale) {
  Settings settings{Rule::lion, 1};
  settings.scale = grad_scale;
  settings.lr = lr;
  settings.keep = 1 - lr * weight_decay;
  settings.beta1 = beta1;
  settings.beta2 = beta2;
  return settings;
}

}  // namespace shardloop
