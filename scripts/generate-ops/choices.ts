// What a person decided about the generated operations: which underscore names are in, what is out and why, which
// operations are methods of Tensor too. Everything else follows from the schemas by rule (select.ts, merge.ts).

/** Names with a leading underscore that are generated all the same; the key is a pattern, the value the reason. */
export const UNDERSCORE: readonly (readonly [RegExp, string])[] = [
  [/^_foreach_/, 'one call for many tensors: optimizers and clipping'],
  [/^_fused_(adam|adamw|sgd|adagrad)_$/, 'the fused optimizers'],
  [/^_fused_rms_norm(_backward)?$/, 'the fused RMS norm'],
  [/^_amp_(foreach_non_finite_check_and_unscale|update_scale)_$/, 'loss scaling for fp16'],
  [/^_scaled_dot_product_.*$/, 'the attention kernels behind scaled_dot_product_attention, with their backwards'],
  [/^_fused_sdp_choice$/, 'tells which attention kernel would run'],
  [/^_(log_)?softmax(_backward_data)?$/, 'softmax with its backward, for custom functions'],
  [/^_safe_softmax$/, 'softmax that gives zeros for fully masked rows'],
  [/^_weight_norm$/, 'weight normalisation'],
  [/^_embedding_bag(_forward_only)?$/, 'embedding_bag with its offsets'],
  [/^_(un)?safe_(view|index|index_put)$/, 'views without the checks, as libtorch uses them itself'],
  [/^_unsafe_(view|index|index_put)$/, 'views and indexing without the checks'],
  [/^_reshape_alias$/, 'a view of any strides'],
  [/^_to_copy$/, 'conversion that always copies'],
  [/^_version$/, 'how often a tensor was written in place'],
  [/^_is_(all|any)_true$/, 'reductions of bool tensors'],
  [/^_unique2?$/, 'unique with inverse and counts'],
  [/^_(cdist|pdist)_(forward|backward)$/, 'pairwise distances with their backwards'],
  [/^_ctc_loss(_backward)?$/, 'the CTC loss with its backward'],
  [/^_convolution$/, 'the one convolution behind conv1d, conv2d, conv3d and their transposes'],
  [/^_int_mm$/, 'int8 matrix product'],
  [/^_scaled_mm$/, 'float8 matrix product'],
  [/^_grouped_mm$/, 'matrix products of groups, for mixtures of experts'],
  [/^_weight_int8pack_mm$/, 'matrix product with int8 weights'],
  [/^_addmm_activation$/, 'a product with its activation in one kernel'],
  [/^_stack$/, 'stack as the backend sees it'],
  [/^_chunk_cat$/, 'concatenation of chunks into one flat buffer: sharded gradients'],
  [/^_fft_(c2c|c2r|r2c)$/, 'the transforms behind fft_*'],
  [/^_(indices|values|nnz|coalesced_?)$/, 'the parts of a sparse tensor'],
  [/^_sparse_(sum|softmax|log_softmax|mm|addmm)$/, 'operations on sparse tensors'],
  [/^_(pack|pad)_(padded|packed)_sequence$/, 'packed sequences for recurrent layers'],
  [/^_standard_gamma$|^_sample_dirichlet$/, 'random numbers of the gamma and Dirichlet distributions'],
  [/^_linalg_(det|slogdet|eigh|svd|solve_ex|eigvals)$/, 'the factorisations behind linalg_*'],
];

/** Why a public name is not generated; the key is a pattern over the qualified name without `aten::`. */
export const EXCLUDED: readonly (readonly [RegExp, string])[] = [
  [/^sym_/, 'for tracing with symbolic sizes; use shape, strides, numel'],
  [/^(data|set_data|requires_grad_|retain_grad|retains_grad|output_nr|is_leaf)$/, 'a property of Tensor here'],
  [/^get_gradients$/, "distributed autograd's context, which does not exist here"],
  [/^record_stream$/, 'takes a CUDA stream; the CUDA library has it'],
  [/^lift(_fresh)?(_copy)?$/, 'for functorch alone'],
  [/^thnn_conv2d$/, 'an old name of conv2d'],
  [/^(mkldnn|miopen|cudnn|mps)_/, 'one backend of an operation that is generated under its general name'],
  [/^(is_vulkan_available|is_distributed)$/, 'about a backend that is not supported'],
  [/^quantized_/, 'needs packed weights that cannot be made from JavaScript'],
  [/^fbgemm_/, 'needs packed weights that cannot be made from JavaScript'],
];

/** Overloads that no call can tell from another one; the other is named in the reason. */
export const AMBIGUOUS: Readonly<Record<string, string>> = {};

/** The operations that are methods of Tensor too, under the same name. */
export const METHODS: readonly string[] = `
abs abs_ acos acosh add add_ addbmm addcdiv addcdiv_ addcmul addcmul_ addmm addmm_ addmv addr adjoint all allclose amax
amin aminmax angle any arctan2 argmax argmin argsort argwhere as_strided asin asinh atan atan2 atanh baddbmm bernoulli
bernoulli_ bincount bitwise_and bitwise_not bitwise_or bitwise_xor bitwise_left_shift bitwise_right_shift bmm
broadcast_to ceil ceil_ chunk clamp clamp_ clamp_max clamp_max_ clamp_min clamp_min_ clone conj contiguous copy_ copysign
cos cosh count_nonzero cross cummax cummin cumprod cumsum cumsum_ deg2rad detach detach_ diag diag_embed diagonal diff
digamma dist div div_ dot eq equal erf erfc erfinv exp exp_ exp2 expand expand_as expm1 exponential_ fill_
fill_diagonal_ flatten flip fliplr flipud float_power floor floor_ floor_divide fmax fmin fmod frac gather ge greater
greater_equal gt hardshrink heaviside histc hypot imag index_add index_add_ index_copy index_copy_ index_fill index_fill_
index_put index_put_ index_select inner inverse is_complex is_floating_point is_nonzero isclose isfinite isinf isnan kron
kthvalue le lerp lerp_ less less_equal lgamma log log10 log1p log2 log_ log_softmax logaddexp logcumsumexp logical_and
logical_not logical_or logical_xor logit logsumexp lt masked_fill masked_fill_ masked_scatter masked_scatter_
masked_select matmul matrix_exp matrix_power max maximum mean median min minimum mm mode movedim msort mul mul_
multinomial multiply mv nan_to_num nan_to_num_ nanmean nanmedian nanquantile nansum narrow ne neg neg_ negative new_empty
new_full new_ones new_zeros nonzero norm normal_ not_equal outer permute pinverse pow pow_ prelu prod quantile rad2deg
random_ ravel real reciprocal reciprocal_ relu relu_ remainder remainder_ renorm repeat repeat_interleave reshape
reshape_as resize_ resolve_conj roll rot90 round round_ rsqrt rsqrt_ scatter scatter_ scatter_add scatter_add_
scatter_reduce scatter_reduce_ select select_scatter sgn sigmoid sigmoid_ sign sin sin_ sinc sinh slice slice_scatter
softmax sort split split_with_sizes sqrt sqrt_ square square_ squeeze squeeze_ std sub sub_ subtract sum sum_to_size
swapaxes t t_ take take_along_dim tan tanh tanh_ tensor_split tile to to_dense to_sparse topk trace transpose transpose_
tril tril_ triu triu_ true_divide trunc type_as unbind unflatten unfold uniform_ unsqueeze unsqueeze_ var vdot view
view_as where xlogy zero_
`
  .trim()
  .split(/\s+/);
