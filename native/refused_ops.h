// Operators that are refused by name, each with its reason: libtorch itself dies on some of their arguments, or they
// cannot work from JavaScript.
#pragma once
#include <array>
#include <string_view>

namespace shardloop {

struct RefusedOp {
  std::string_view name;  // without the overload
  const char* reason;
};

inline constexpr std::array kRefusedOps{
    RefusedOp{"aten::reflection_pad1d_backward", "libtorch reads out of bounds on mismatched shapes"},
    RefusedOp{"aten::fractional_max_pool2d_backward", "libtorch reads out of bounds on indices that it did not make"},
    RefusedOp{"aten::quantized_lstm_cell", "libtorch dereferences unchecked packed weights"},
    RefusedOp{"aten::quantized_gru_cell", "libtorch dereferences unchecked packed weights"},
    RefusedOp{"aten::quantized_rnn_relu_cell", "libtorch dereferences unchecked packed weights"},
    RefusedOp{"aten::quantized_rnn_tanh_cell", "libtorch dereferences unchecked packed weights"},
};

}  // namespace shardloop
