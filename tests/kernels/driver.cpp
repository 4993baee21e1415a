// The kernels' headers without ExecuTorch, as a filter for tests: float32 tensors from stdin, the result to stdout.
//
//   driver exp2|softplus|silu
//   driver scan LENGTH CHANNELS STATES DIRECTIONS SOFTPLUS GATED OFFSET    DIRECTIONS: f, b or fb
//   driver conv LENGTH CHANNELS TAPS BACKWARD OFFSET
//   driver attention HEADS GROUPS WIDTH CONTEXT HALF OFFSET TOKENS..    as many calls, one behind the other; all results
//   driver linear ROWS INPUTS OUTPUTS BIASED NORMED RESIDUAL GATED EPSILON OFFSET
//   driver halves    float32 to half precision and back
//
// Every tensor lies OFFSET floats behind an aligned address, its rows are padded by 3 floats (so that each row is aligned otherwise
// than the one before), and the padding is NaN: what is read from it spoils the result, and what is written to it is noticed.

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <limits>
#include <string>
#include <vector>

#include "../../export/ops/attention/kernel.h"
#include "../../export/ops/causal_conv/kernel.h"
#include "../../export/ops/linear_int4/kernel.h"
#include "../../export/ops/selective_scan/kernel.h"

using namespace mobile_videogpt;

namespace {

[[noreturn]] void fail(const char* why) {
  std::fprintf(stderr, "driver: %s\n", why);
  std::exit(2);
}

void read_exactly(float* to, size_t count) {
  if (std::fread(to, sizeof(float), count, stdin) != count) fail("too few floats on stdin");
}

void write_exactly(const float* from, size_t count) {
  if (std::fwrite(from, sizeof(float), count, stdout) != count) fail("cannot write");
}

size_t offset = 0;  // of every tensor

// A tensor of `rows` rows; its last one has no padding behind it, so that an address sanitizer sees what is read there.
class Rows {
 public:
  Rows(size_t rows, size_t width)
      : rows_(rows), width_(width), buffer_(offset + (rows ? (rows - 1) * stride() + width : 0), std::numeric_limits<float>::quiet_NaN()) {}

  Rows& read() {
    for (size_t row = 0; row < rows_; ++row) read_exactly(data() + row * stride(), width_);
    return *this;
  }
  void write() const {
    for (size_t i = 0; i < buffer_.size(); ++i)
      if ((i < offset || (i - offset) % stride() >= width_) && !std::isnan(buffer_[i])) fail("a kernel wrote outside its rows");
    for (size_t row = 0; row < rows_; ++row) write_exactly(buffer_.data() + offset + row * stride(), width_);
  }
  float* data() { return buffer_.data() + offset; }
  size_t stride() const { return width_ + 3; }

 private:
  size_t rows_, width_;
  std::vector<float> buffer_;
};

// A tensor without padding.
std::vector<float> dense(size_t count) {
  std::vector<float> values(offset + count);
  read_exactly(values.data() + offset, count);
  return values;
}

void map(Vector function(Vector)) {
  float values[kLanes];
  while (const size_t count = std::fread(values, sizeof(float), kLanes, stdin)) {
    store(values, function(load(values, count)), count);
    write_exactly(values, count);
  }
}

void scan(size_t length, size_t channels, size_t states, const std::string& order, bool softplus, bool gated) {
  struct Tensors {
    Rows u, delta, maps;  // maps: B, then C
    std::vector<float> A, D;
  };
  std::vector<Tensors> tensors;
  std::vector<ScanDirection> directions;
  tensors.reserve(order.size());
  for (char direction : order) {
    tensors.push_back({Rows(length, channels), Rows(length, channels), Rows(length, 2 * states), {}, {}});
    Tensors& t = tensors.back();
    t.u.read();
    t.delta.read();
    t.maps.read();
    t.A = dense(channels * states);
    t.D = dense(channels);
    directions.push_back({t.u.data(), t.u.stride(), t.delta.data(), t.delta.stride(), t.maps.data(), t.maps.data() + states,
                          t.maps.stride(), t.A.data() + offset, t.D.data() + offset, direction == 'b'});
  }
  Rows gate(gated ? length : 0, channels), out(length, channels);
  gate.read();
  const Scan scan{length, channels, states, softplus, directions.data(), directions.size(), gated ? gate.data() : nullptr, gate.stride(),
                  out.data(), out.stride()};
  for (size_t unit = 0; unit < scan_units(scan); ++unit) scan_unit(scan, unit);
  out.write();
}

void convolution(size_t length, size_t channels, size_t taps, bool backward) {
  Rows x(length, channels);
  x.read();
  const std::vector<float> weight = dense(taps * channels), bias = dense(channels);
  std::vector<float> out(offset + length * channels);
  const Convolution conv{length, channels, taps, x.data(), x.stride(), weight.data() + offset, bias.data() + offset, backward,
                         out.data() + offset};
  for (size_t unit = 0; unit < convolution_units(conv); ++unit) convolution_unit(conv, unit);
  write_exactly(out.data() + offset, length * channels);
}

template <typename Element>
void attention(size_t heads, size_t groups, size_t width, size_t context, Element nothing, const std::vector<size_t>& calls) {
  size_t tokens = 0;
  for (size_t count : calls) tokens += count;
  const size_t stride = (heads + 2 * groups) * width;
  const auto qkv = dense(tokens * stride), rotation = dense(context * width);
  std::vector<Element> keys(groups * context * width, nothing), values(keys);
  std::vector<float> out(offset + tokens * heads * width);
  size_t position = 0;
  for (size_t count : calls) {
    const float* q = qkv.data() + offset + position * stride;
    const Attention<Element> call{count, position, heads, groups, width, context, q, q + heads * width, q + (heads + groups) * width, stride,
                                  rotation.data() + offset, keys.data(), values.data(), out.data() + offset + position * heads * width};
    for (size_t unit = 0; unit < write_units(call); ++unit) write_unit(call, unit);
    if (count == 1) {
      std::vector<float> pieces(step_units(call) * step_floats(call));
      for (size_t unit = 0; unit < step_units(call); ++unit) step_unit(call, unit, pieces.data());
      for (size_t group = 0; group < groups; ++group) merge_steps(call, group, pieces.data());
    } else {
      for (size_t unit = 0; unit < attention_units(call); ++unit) attention_unit(call, unit);
    }
    position += count;
  }
  write_exactly(out.data() + offset, tokens * heads * width);
}

// Weights and scales come as the floats that their bytes and their bits are.
void linear(size_t rows, size_t inputs, size_t outputs, bool biased, bool normed, bool residual, bool gated, float epsilon) {
  const auto x = dense(rows * inputs), bytes = dense(inputs * outputs / 2), bits = dense(inputs * outputs / kGroup);
  const auto bias = dense(biased ? outputs : 0), norm = dense(normed ? inputs : 0);
  const size_t width = gated ? outputs / 2 : outputs;
  const auto added = dense(residual ? rows * width : 0);
  const std::vector<uint8_t> weight(bytes.begin() + offset, bytes.end());
  const std::vector<uint16_t> scale(bits.begin() + offset, bits.end());
  std::vector<int8_t> values(rows * inputs);
  std::vector<float> scales(rows * inputs / kGroup), out(offset + rows * width);
  std::vector<int32_t> starts(scales.size());
  const QuantizedRows quantized{rows, inputs, values.data(), scales.data(), starts.data()};
  for (size_t row = 0, count; row < rows; row += count) {
    count = tile_rows(rows, row);
    quantize_tile(x.data() + offset, normed ? norm.data() + offset : nullptr, epsilon, quantized, row, count);
  }
  const LinearInt4 call{inputs, outputs, weight.data(), scale.data(), biased ? bias.data() + offset : nullptr,
                        residual ? added.data() + offset : nullptr, gated, out.data() + offset};
  for (size_t unit = 0; unit < linear_units(call); ++unit) linear_unit(call, quantized, unit);
  write_exactly(out.data() + offset, rows * width);
}

}  // namespace

int main(int argc, char** argv) {
  const std::string name = argc > 1 ? argv[1] : "";
  const auto number = [&](int i) { return std::strtoul(argv[i], nullptr, 10); };
  if (name == "exp2" && argc == 2) {
    map(exp2);
  } else if (name == "softplus" && argc == 2) {
    map(softplus);
  } else if (name == "silu" && argc == 2) {
    map(silu);
  } else if (name == "scan" && argc == 9) {
    offset = number(8);
    scan(number(2), number(3), number(4), argv[5], number(6), number(7));
  } else if (name == "conv" && argc == 7) {
    offset = number(6);
    convolution(number(2), number(3), number(4), number(5));
  } else if (name == "attention" && argc > 8) {
    offset = number(7);
    std::vector<size_t> calls;
    for (int i = 8; i < argc; ++i) calls.push_back(number(i));
    const float nan = std::numeric_limits<float>::quiet_NaN();
    if (number(6)) attention<uint16_t>(number(2), number(3), number(4), number(5), 0x7e00, calls);
    else attention<float>(number(2), number(3), number(4), number(5), nan, calls);
  } else if (name == "linear" && argc == 11) {
    offset = number(10);
    linear(number(2), number(3), number(4), number(5), number(6), number(7), number(8), std::strtof(argv[9], nullptr));
  } else if (name == "halves" && argc == 2) {
    float value;
    while (std::fread(&value, sizeof value, 1, stdin) == 1) {
      uint16_t half[kLanes];
      std::fill(half, half + kLanes, to_half(value));
      const float back[2] = {from_half(half[0]), load_half(half)[kLanes - 1]};
      write_exactly(back, 2);
    }
  } else {
    fail("unknown command");
  }
}
