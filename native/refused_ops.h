// Operators that are refused by name, each with its reason: libtorch itself dies on some of their arguments, or they
// cannot work from JavaScript. Found by fuzzing (npm run soak); useful ones are guarded instead (guards.cc).
#pragma once
#include <array>
#include <string_view>

namespace shardloop {

struct RefusedOp {
  std::string_view name;  // all overloads of the operator, or with ".overload" that one
  const char* reason;
};

inline constexpr const char* kBackward =
    "it is a kernel of libtorch's own backward, which reads out of bounds on arguments that do not fit together; call "
    "the forward operator and backward()";
inline constexpr const char* kInternal =
    "it is an internal kernel of libtorch, which reads or writes out of bounds on arguments that do not fit together; "
    "call the public operator above it";
inline constexpr const char* kUnchecked =
    "it makes views without looking whether they lie in their storage; use as_strided";
inline constexpr const char* kBatched =
    "it makes tensors of an older vmap, on which operators die that take them together with plain tensors; give the "
    "operator an axis more";
inline constexpr const char* kPacked =
    "libtorch trusts its packed weights and quantization arguments and dies on others";
inline constexpr const char* kPointer =
    "its result keeps a pointer in the bytes of a tensor, and whatever is written there ends the process";
inline constexpr const char* kEndless =
    "it searches without end for some arguments; choose the quantization's scale from the smallest and largest value";
inline constexpr const char* kDivides =
    "libtorch divides by zero when the step is not a whole number and the output is integral; use arange";

inline constexpr std::array kRefusedOps{
    RefusedOp{"_quantized::_wrapped_linear_prepack", kPointer},
    RefusedOp{"_quantized::wrapped_fbgemm_pack_gemm_matrix_fp16", kPointer},
    RefusedOp{"aten::_reshape_alias", kUnchecked},
    RefusedOp{"inductor::_alloc_from_pool", kUnchecked},
    RefusedOp{"inductor::_reinterpret_tensor", kUnchecked},
    RefusedOp{"aten::_adaptive_avg_pool2d_backward", kBackward},
    RefusedOp{"aten::_add_batch_dim", kBatched},
    RefusedOp{"aten::_batch_norm_impl_index_backward", kBackward},
    RefusedOp{"aten::_cdist_backward", kBackward},
    RefusedOp{"aten::_cholesky_solve_helper", kInternal},
    RefusedOp{"aten::_chunk_cat", kInternal},
    RefusedOp{"aten::_compute_linear_combination", kInternal},
    RefusedOp{"aten::_convert_indices_from_coo_to_csr", kInternal},
    RefusedOp{"aten::_convert_indices_from_csr_to_coo", kInternal},
    RefusedOp{"aten::_convolution_double_backward", kBackward},
    RefusedOp{"aten::_ctc_loss_backward", kBackward},
    RefusedOp{"aten::_cummax_helper", kInternal},
    RefusedOp{"aten::_cummin_helper", kInternal},
    RefusedOp{"aten::_dyn_quant_matmul_4bit", kInternal},
    RefusedOp{"aten::_dyn_quant_pack_4bit_weight", kInternal},
    RefusedOp{"aten::_fft_c2c", kInternal},
    RefusedOp{"aten::_fft_c2r", kInternal},
    RefusedOp{"aten::_fft_r2c", kInternal},
    RefusedOp{"aten::_fused_moving_avg_obs_fq_helper", kInternal},
    RefusedOp{"aten::_fused_moving_avg_obs_fq_helper_functional", kInternal},
    RefusedOp{"aten::_log_softmax_backward_data", kBackward},
    RefusedOp{"aten::_logcumsumexp", kInternal},
    RefusedOp{"aten::_nested_compute_contiguous_strides_offsets", kInternal},
    RefusedOp{"aten::_nested_from_padded", kInternal},
    RefusedOp{"aten::_new_zeros_with_same_feature_meta", kInternal},
    RefusedOp{"aten::_nnpack_spatial_convolution", kInternal},
    RefusedOp{"aten::_pdist_backward", kBackward},
    RefusedOp{"aten::_pdist_forward", kInternal},
    RefusedOp{"aten::_remove_batch_dim", kInternal},
    RefusedOp{"aten::_reshape_alias_copy", kInternal},
    RefusedOp{"aten::_segment_reduce_backward", kBackward},
    RefusedOp{"aten::_slow_conv2d_backward", kBackward},
    RefusedOp{"aten::_slow_conv2d_forward", kInternal},
    RefusedOp{"aten::_sparse_compressed_tensor_with_dims", kInternal},
    RefusedOp{"aten::_stack", kInternal},
    RefusedOp{"aten::_thnn_differentiable_gru_cell_backward", kBackward},
    RefusedOp{"aten::_thnn_differentiable_lstm_cell_backward", kBackward},
    RefusedOp{"aten::_transform_bias_rescale_qkv", kInternal},
    RefusedOp{"aten::_unsafe_masked_index", kInternal},
    RefusedOp{"aten::_weight_norm", kInternal},
    RefusedOp{"aten::_weight_norm_interface", kInternal},
    RefusedOp{"aten::_weight_norm_interface_backward", kBackward},
    RefusedOp{"aten::batch_norm_backward", kBackward},
    RefusedOp{"aten::_saturate_weight_to_fp16", kPacked},
    RefusedOp{"aten::_wrapped_linear_prepack", kPointer},
    RefusedOp{"aten::choose_qparams_optimized", kEndless},
    RefusedOp{"aten::fbgemm_linear_quantize_weight", kPacked},
    RefusedOp{"aten::fbgemm_pack_gemm_matrix_fp16", kPointer},
    RefusedOp{"aten::fbgemm_pack_quantized_matrix", kPointer},
    RefusedOp{"aten::embedding_backward", kBackward},
    RefusedOp{"aten::embedding_dense_backward", kBackward},
    RefusedOp{"aten::fractional_max_pool2d_backward", kBackward},
    RefusedOp{"aten::fractional_max_pool3d_backward", kBackward},
    RefusedOp{"aten::fused_moving_avg_obs_fake_quant", kInternal},
    RefusedOp{"aten::mkldnn_rnn_layer", kInternal},
    RefusedOp{"aten::mkldnn_rnn_layer_backward", kBackward},
    RefusedOp{"aten::native_batch_norm_backward", kBackward},
    RefusedOp{"aten::quantized_gru_cell", kPacked},
    RefusedOp{"aten::quantized_lstm_cell", kPacked},
    RefusedOp{"aten::quantized_rnn_relu_cell", kPacked},
    RefusedOp{"aten::quantized_rnn_tanh_cell", kPacked},
    RefusedOp{"aten::range.out", kDivides},
    RefusedOp{"aten::adaptive_max_pool2d_backward", kBackward},
    RefusedOp{"aten::adaptive_max_pool3d_backward", kBackward},
    RefusedOp{"aten::nll_loss2d_backward", kBackward},
    RefusedOp{"aten::nll_loss_backward", kBackward},
    RefusedOp{"aten::native_group_norm_backward", kBackward},
    RefusedOp{"aten::reflection_pad1d_backward", kBackward},
    RefusedOp{"aten::reflection_pad2d_backward", kBackward},
    RefusedOp{"aten::rrelu_with_noise", kInternal},
    RefusedOp{"aten::rrelu_with_noise_", kInternal},
    RefusedOp{"aten::rrelu_with_noise_backward", kBackward},
    RefusedOp{"aten::rrelu_with_noise_functional", kInternal},
    RefusedOp{"aten::smooth_l1_loss_backward", kBackward},
    RefusedOp{"aten::trace_backward", kBackward},
    RefusedOp{"aten::unfold_backward", kBackward},
    RefusedOp{"mkl::_mkl_reorder_linear_weight", kPacked},
    RefusedOp{"mkldnn::_reorder_convolution_transpose_weight", kPacked},
    RefusedOp{"mkldnn::_reorder_convolution_weight", kPacked},
    RefusedOp{"mkldnn::_reorder_mkldnn_rnn_layer_weight", kPacked},
    RefusedOp{"onednn::linear_prepack_fp16", kPacked},
    RefusedOp{"onednn::qlinear_pointwise", kPacked},
    RefusedOp{"onednn::qlinear_prepack", kPacked},
};

}  // namespace shardloop
