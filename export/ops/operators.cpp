// The kernels as ExecuTorch operators of the namespace `mobile_videogpt`, on ExecuTorch's own thread pool.
//
// A host links this one file: it registers itself. Schemas and shapes stand with the operators' Python definitions.

#include <executorch/extension/kernel_util/make_boxed_from_unboxed_functor.h>
#include <executorch/extension/threadpool/threadpool.h>
#include <executorch/runtime/kernel/kernel_includes.h>

#include "attention/kernel.h"
#include "causal_conv/kernel.h"
#include "linear_int4/kernel.h"
#include "selective_scan/kernel.h"

namespace mobile_videogpt {
namespace {

using ::executorch::aten::ScalarType;
using ::executorch::aten::Tensor;
using ::executorch::runtime::Error;
using ::executorch::runtime::KernelRuntimeContext;

template <typename Function>
void parallel(size_t units, const Function& function) {
  auto* pool = units > 1 ? ::executorch::extension::threadpool::get_threadpool() : nullptr;
  if (pool) return pool->run(function, units);
  for (size_t unit = 0; unit < units; ++unit) function(unit);
}

bool is_float(const Tensor& tensor, int dim) {
  return tensor.scalar_type() == ScalarType::Float && tensor.dim() == dim;
}

size_t size(const Tensor& tensor, int dim) {
  return static_cast<size_t>(tensor.size(dim));
}

const float* floats(const Tensor& tensor) {
  return tensor.const_data_ptr<float>();
}

// A half precision tensor as float32 in `buffer`; a float32 tensor as it is.
const float* widened(const Tensor& tensor, std::vector<float>& buffer) {
  if (tensor.scalar_type() == ScalarType::Float) return floats(tensor);
  const auto* from = tensor.const_data_ptr<::executorch::aten::Half>();
  buffer.assign(from, from + tensor.numel());
  return buffer.data();
}

// selective_scan.out(u, delta, A, B, C, D, *, out) -> out. The state is float32 whatever the tensors are.
Tensor& selective_scan_out(
    KernelRuntimeContext& context,
    const Tensor& u,
    const Tensor& delta,
    const Tensor& A,
    const Tensor& B,
    const Tensor& C,
    const Tensor& D,
    Tensor& out) {
  const auto type = u.scalar_type();
  const bool half = type == ScalarType::Half;
  ET_KERNEL_CHECK(context, (half || type == ScalarType::Float) && out.scalar_type() == type, InvalidArgument, out);
  for (const Tensor* tensor : {&delta, &A, &B, &C, &D}) ET_KERNEL_CHECK(context, tensor->scalar_type() == type, InvalidArgument, out);
  ET_KERNEL_CHECK(context, u.dim() == 3 && A.dim() == 3 && B.dim() == 3 && D.dim() == 2, InvalidArgument, out);
  const size_t length = size(u, 0), groups = size(u, 1), channels = size(u, 2), states = size(A, 2);
  ET_KERNEL_CHECK(context, delta.numel() == u.numel() && out.numel() == u.numel(), InvalidArgument, out);
  ET_KERNEL_CHECK(context, groups > 0 && size(A, 0) == groups && size(A, 1) == channels, InvalidArgument, out);
  ET_KERNEL_CHECK(context, size(D, 0) == groups && size(D, 1) == channels, InvalidArgument, out);
  ET_KERNEL_CHECK(context, B.numel() == C.numel() && size(B, 0) == length && size(B, 1) == groups && size(B, 2) == states, InvalidArgument, out);

  std::vector<float> wide[7];
  const float *pu = widened(u, wide[0]), *pdelta = widened(delta, wide[1]), *pA = widened(A, wide[2]);
  const float *pB = widened(B, wide[3]), *pC = widened(C, wide[4]), *pD = widened(D, wide[5]);
  if (half) wide[6].resize(out.numel());
  float* pout = half ? wide[6].data() : out.mutable_data_ptr<float>();

  const size_t row = groups * channels, maps = groups * states;
  std::vector<ScanDirection> directions;
  std::vector<Scan> scans;
  directions.reserve(groups);  // each scan points at its own
  for (size_t g = 0; g < groups; ++g) {
    directions.push_back({pu + g * channels, row, pdelta + g * channels, row, pB + g * states, pC + g * states, maps,
                          pA + g * channels * states, pD + g * channels, false});
    scans.push_back({length, channels, states, false, &directions[g], 1, nullptr, 0, pout + g * channels, row});
  }
  const size_t units = scan_units(scans[0]);
  parallel(groups * units, [&](size_t i) { scan_unit(scans[i / units], i % units); });
  if (half) std::copy(pout, pout + out.numel(), out.mutable_data_ptr<::executorch::aten::Half>());
  return out;
}

// bidirectional_scan.out(u, u', delta, delta', maps, maps', projected, A, D, *, out) -> out
Tensor& bidirectional_scan_out(
    KernelRuntimeContext& context,
    const Tensor& u_forward,
    const Tensor& u_backward,
    const Tensor& delta_forward,
    const Tensor& delta_backward,
    const Tensor& maps_forward,
    const Tensor& maps_backward,
    const Tensor& projected,
    const Tensor& A,
    const Tensor& D,
    Tensor& out) {
  for (const Tensor* tensor : {&u_forward, &u_backward, &delta_forward, &delta_backward, &maps_forward, &maps_backward, &projected, &D})
    ET_KERNEL_CHECK(context, is_float(*tensor, 2), InvalidArgument, out);
  ET_KERNEL_CHECK(context, is_float(A, 3) && is_float(out, 2), InvalidArgument, out);
  const size_t length = size(out, 0), channels = size(out, 1), states = size(A, 2), maps = size(maps_forward, 1);
  for (const Tensor* tensor : {&u_forward, &u_backward, &delta_forward, &delta_backward})
    ET_KERNEL_CHECK(context, size(*tensor, 0) == length && size(*tensor, 1) == channels, InvalidArgument, out);
  ET_KERNEL_CHECK(context, size(maps_forward, 0) == length && maps >= 2 * states, InvalidArgument, out);
  ET_KERNEL_CHECK(context, size(maps_backward, 0) == length && size(maps_backward, 1) == maps, InvalidArgument, out);
  ET_KERNEL_CHECK(context, size(projected, 0) == length && size(projected, 1) == 2 * channels, InvalidArgument, out);
  ET_KERNEL_CHECK(context, size(A, 0) == 2 && size(A, 1) == channels, InvalidArgument, out);
  ET_KERNEL_CHECK(context, size(D, 0) == 2 && size(D, 1) == channels, InvalidArgument, out);

  const size_t B = maps - 2 * states, C = maps - states;  // columns of a row of maps; before them stands what delta came from
  const ScanDirection directions[2] = {
      {floats(u_forward), channels, floats(delta_forward), channels, floats(maps_forward) + B, floats(maps_forward) + C, maps,
       floats(A), floats(D), false},
      {floats(u_backward), channels, floats(delta_backward), channels, floats(maps_backward) + B, floats(maps_backward) + C, maps,
       floats(A) + channels * states, floats(D) + channels, true}};
  const Scan scan{length, channels, states, true, directions, 2, floats(projected) + channels, 2 * channels,
                  out.mutable_data_ptr<float>(), channels};
  parallel(scan_units(scan), [&](size_t unit) { scan_unit(scan, unit); });
  return out;
}

// causal_conv.out(projected, weight, bias, backward, *, out) -> out
Tensor& causal_conv_out(
    KernelRuntimeContext& context,
    const Tensor& projected,
    const Tensor& weight,
    const Tensor& bias,
    bool backward,
    Tensor& out) {
  ET_KERNEL_CHECK(context, is_float(projected, 2) && is_float(weight, 2) && is_float(bias, 1), InvalidArgument, out);
  const size_t length = size(projected, 0), taps = size(weight, 0), channels = size(weight, 1);
  ET_KERNEL_CHECK(context, size(projected, 1) == 2 * channels && size(bias, 0) == channels, InvalidArgument, out);
  ET_KERNEL_CHECK(context, is_float(out, 2) && size(out, 0) == length && size(out, 1) == channels, InvalidArgument, out);
  const Convolution conv{length, channels, taps, floats(projected), 2 * channels, floats(weight), floats(bias), backward,
                         out.mutable_data_ptr<float>()};
  parallel(convolution_units(conv), [&](size_t unit) { convolution_unit(conv, unit); });
  return out;
}

bool resized(Tensor& out, size_t rows, size_t columns) {
  const ::executorch::aten::SizesType sizes[] = {static_cast<::executorch::aten::SizesType>(rows),
                                                 static_cast<::executorch::aten::SizesType>(columns)};
  return ::executorch::runtime::resize_tensor(out, {sizes, 2}) == Error::Ok;
}

using MaybeTensor = std::optional<Tensor>;

// Whether an argument that may be missing is a float32 tensor of so many elements.
bool is_missing_or(const MaybeTensor& tensor, int dim, size_t elements) {
  return !tensor || (is_float(*tensor, dim) && static_cast<size_t>(tensor->numel()) == elements);
}

const float* floats_or_null(const MaybeTensor& tensor) {
  return tensor ? floats(*tensor) : nullptr;
}

// linear_int4.out(x, weight, scale, bias, norm, residual, layers, gated, epsilon, *, out) -> out
Tensor& linear_int4_out(
    KernelRuntimeContext& context,
    const Tensor& x,
    const Tensor& weight,
    const Tensor& scale,
    const MaybeTensor& bias,
    const MaybeTensor& norm,
    const MaybeTensor& residual,
    ::executorch::aten::ArrayRef<int64_t> layers,
    bool gated,
    double epsilon,
    Tensor& out) {
  (void)layers;  // for who reads the file
  ET_KERNEL_CHECK(context, is_float(x, 2) && weight.scalar_type() == ScalarType::Byte && weight.dim() == 4, InvalidArgument, out);
  const size_t rows = size(x, 0), inputs = size(x, 1), blocks = size(weight, 0), outputs = blocks * kChannels;
  ET_KERNEL_CHECK(context, inputs % kGroup == 0 && size(weight, 1) * 8 == inputs && size(weight, 2) == kChannels, InvalidArgument, out);
  ET_KERNEL_CHECK(context, scale.scalar_type() == ScalarType::Half && scale.numel() * 32 == weight.numel() * 2, InvalidArgument, out);
  ET_KERNEL_CHECK(context, !gated || blocks % 2 == 0, InvalidArgument, out);
  ET_KERNEL_CHECK(context, is_missing_or(bias, 1, outputs) && is_missing_or(norm, 1, inputs), InvalidArgument, out);
  const LinearInt4 linear{inputs, outputs, weight.const_data_ptr<uint8_t>(),
                          reinterpret_cast<const uint16_t*>(scale.const_data_ptr<::executorch::aten::Half>()), floats_or_null(bias),
                          floats_or_null(residual), gated, out.mutable_data_ptr<float>()};
  ET_KERNEL_CHECK(context, is_missing_or(residual, 2, rows * linear.width()), InvalidArgument, out);
  ET_KERNEL_CHECK(context, is_float(out, 2) && resized(out, rows, linear.width()), InvalidArgument, out);

  thread_local std::vector<int8_t> values;
  thread_local std::vector<float> scales;
  thread_local std::vector<int32_t> starts;
  const size_t groups = rows * inputs / kGroup;
  values.resize(std::max(values.size(), rows * inputs));
  scales.resize(std::max(scales.size(), groups));
  starts.resize(std::max(starts.size(), groups));
  const QuantizedRows quantized{rows, inputs, values.data(), scales.data(), starts.data()};
  const size_t tiles = (rows + kRowTile - 1) / kRowTile;
  parallel(tiles, [&](size_t tile) {
    for (size_t row = tile * kRowTile, count; row < std::min(rows, (tile + 1) * kRowTile); row += count) {
      count = tile_rows(rows, row);
      quantize_tile(floats(x), floats_or_null(norm), static_cast<float>(epsilon), quantized, row, count);
    }
  });
  parallel(linear_units(linear), [&](size_t unit) { linear_unit(linear, quantized, unit); });
  return out;
}

template <typename Element>
void attend(const Attention<Element>& call) {
  if (call.tokens > 1) {
    parallel(write_units(call), [&](size_t unit) { write_unit(call, unit); });
    return parallel(attention_units(call), [&](size_t unit) { attention_unit(call, unit); });
  }
  for (size_t unit = 0; unit < write_units(call); ++unit) write_unit(call, unit);  // of one token: less than waking a thread takes
  thread_local std::vector<float> pieces;
  pieces.resize(std::max(pieces.size(), step_units(call) * step_floats(call)));
  float* const results = pieces.data();
  parallel(step_units(call), [&](size_t unit) { step_unit(call, unit, results); });
  for (size_t group = 0; group < call.groups; ++group) merge_steps(call, group, results);
}

// cached_attention.out(qkv, rotation, keys, values, position, *, out) -> out. Keys and values are written to.
Tensor& cached_attention_out(
    KernelRuntimeContext& context,
    const Tensor& qkv,
    const Tensor& rotation,
    Tensor& keys,
    Tensor& values,
    int64_t position,
    Tensor& out) {
  for (const Tensor* tensor : {&qkv, &rotation}) ET_KERNEL_CHECK(context, is_float(*tensor, 2), InvalidArgument, out);
  const auto type = keys.scalar_type();
  const bool half = type == ScalarType::Half;
  ET_KERNEL_CHECK(context, (half || type == ScalarType::Float) && values.scalar_type() == type, InvalidArgument, out);
  ET_KERNEL_CHECK(context, keys.dim() == 4 && values.dim() == 3 && keys.numel() == values.numel(), InvalidArgument, out);
  const size_t tokens = size(qkv, 0), stride = size(qkv, 1), groups = size(values, 0), length = size(values, 1), width = size(values, 2);
  ET_KERNEL_CHECK(context, size(keys, 2) == width && size(keys, 3) == kKeyLanes && length % kKeyTile == 0, InvalidArgument, out);
  ET_KERNEL_CHECK(context, groups > 0 && width > 0 && width % kKeyLanes == 0 && size(rotation, 1) == width, InvalidArgument, out);
  ET_KERNEL_CHECK(context, stride % (groups * width) == 0 && stride > 2 * groups * width && is_float(out, 2), InvalidArgument, out);
  const size_t queries = stride - 2 * groups * width;
  ET_KERNEL_CHECK(context, resized(out, tokens, queries), InvalidArgument, out);
  const size_t seen = static_cast<size_t>(position) + tokens;
  ET_KERNEL_CHECK(context, position >= 0 && tokens > 0 && seen <= length && seen <= size(rotation, 0), InvalidArgument, out);

  const auto call = [&](auto* keys_data, auto* values_data) {
    using Element = std::remove_reference_t<decltype(*keys_data)>;
    const float* q = floats(qkv);
    attend(Attention<Element>{tokens, static_cast<size_t>(position), queries / width, groups, width, length, q, q + queries,
                              q + queries + groups * width, stride, floats(rotation), keys_data, values_data,
                              out.mutable_data_ptr<float>()});
  };
  if (half)
    call(reinterpret_cast<uint16_t*>(keys.mutable_data_ptr<::executorch::aten::Half>()),
         reinterpret_cast<uint16_t*>(values.mutable_data_ptr<::executorch::aten::Half>()));
  else
    call(keys.mutable_data_ptr<float>(), values.mutable_data_ptr<float>());
  return out;
}

EXECUTORCH_LIBRARY(mobile_videogpt, "cached_attention.out", cached_attention_out);
EXECUTORCH_LIBRARY(mobile_videogpt, "linear_int4.out", linear_int4_out);
EXECUTORCH_LIBRARY(mobile_videogpt, "selective_scan.out", selective_scan_out);
EXECUTORCH_LIBRARY(mobile_videogpt, "bidirectional_scan.out", bidirectional_scan_out);
EXECUTORCH_LIBRARY(mobile_videogpt, "causal_conv.out", causal_conv_out);

}  // namespace
}  // namespace mobile_videogpt
