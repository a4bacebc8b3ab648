// Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
//
// LightNL in deploy form as one operator on a CPU, float32:
// x + depthwise3x3(light_nl(x)) + bias, and the block's residual. Each row of
// y = light_nl(x) is computed just before the convolution needs it and stays in the
// cache for as long as it is needed; x is read twice, and only the result is
// written.
//
// Feature maps are channels_last: the C numbers of one position lie together.
#include "light_nl.h"

#include <torch/library.h>

#include <algorithm>
#include <vector>

#include "tile.h"

namespace autonl_mm {

// out = a b, or with ADD: out += a b
template <bool ADD>
INLINE void multiply(Left a, Right b, float* out, int64_t out_row, int64_t rows, int64_t cols,
                     int64_t depth) {
  int64_t c = 0;
  const auto columns = [&]<int B>() INLINE_LAMBDA {
    in_panels<ROWS<B>>(rows, [&]<int R>(int64_t first) INLINE_LAMBDA {
      float* const to = out + first * out_row + c;
      tile<R, B>(
          {a.data + first * a.row, a.row, a.col}, {b.data + c, b.row}, depth,
          [&](int r, int j) INLINE_LAMBDA {
            return ADD ? at_vec(to + r * out_row + j * LANES) : Vec{};
          },
          [&](int r, int j, Vec sum) INLINE_LAMBDA {
            at_vec(to + r * out_row + j * LANES) = sum;
          });
    });
    c += B * LANES;
  };
  while (cols - c >= LANES) switch (vectors_of(cols - c)) {
      case 3: columns.template operator()<3>(); break;
      case 2: columns.template operator()<2>(); break;
      case 1: columns.template operator()<1>(); break;
    }
  for (; c < cols; c++)
    for (int64_t r = 0; r < rows; r++) {
      float sum = ADD ? out[r * out_row + c] : 0;
      for (int64_t i = 0; i < depth; i++)
        sum += a.data[r * a.row + i * a.col] * b.data[i * b.row + c];
      out[r * out_row + c] = sum;
    }
}

FOR_EACH_TARGET
void product(Left a, Right b, float* out, int64_t out_row, int64_t rows, int64_t cols,
             int64_t depth) {
  multiply<false>(a, b, out, out_row, rows, cols, depth);
}

FOR_EACH_TARGET
void add_product(Left a, Right b, float* out, int64_t out_row, int64_t rows, int64_t cols,
                 int64_t depth) {
  multiply<true>(a, b, out, out_row, rows, cols, depth);
}

// One row of the result: x + bias + the 3x3 convolution of three rows of y, plus the
// residual if there is one. `taps` is (9, C). Each row of y is padded with `dilation`
// positions of zeros on both sides.
FOR_EACH_TARGET
void convolve(const float* const* y, const float* x, const float* residual, const float* taps,
              const float* bias, float* out, int64_t width, int64_t channels,
              int64_t dilation) {
  int64_t c = 0;
  for (; c + LANES <= channels; c += LANES) {
    Vec tap[9];
    for (int t = 0; t < 9; t++) tap[t] = at_vec(taps + t * channels + c);
    const Vec b = at_vec(bias + c);
    for (int64_t i = 0; i < width; i++) {
      Vec sum = at_vec(x + i * channels + c) + b;
      if (residual) sum += at_vec(residual + i * channels + c);
      for (int t = 0; t < 9; t++)
        sum += tap[t] * at_vec(y[t / 3] + (i + t % 3 * dilation) * channels + c);
      at_vec(out + i * channels + c) = sum;
    }
  }
  for (; c < channels; c++)
    for (int64_t i = 0; i < width; i++) {
      float sum = x[i * channels + c] + bias[c];
      if (residual) sum += residual[i * channels + c];
      for (int t = 0; t < 9; t++)
        sum += taps[t * channels + c] * y[t / 3][(i + t % 3 * dilation) * channels + c];
      out[i * channels + c] = sum;
    }
}

LightNL::LightNL(at::IntArrayRef sizes, const at::Tensor& weight, const at::Tensor& bias,
                 int64_t k, int64_t stride, int64_t dilation, bool spatial)
    : C(sizes[1]), H(sizes[2]), W(sizes[3]), k(k), stride(stride), dilation(dilation),
      h(stride > 0 ? (H + stride - 1) / stride : 0), w(stride > 0 ? (W + stride - 1) / stride : 0),
      spatial(spatial), taps(outputs_last(weight)), shift(bias.contiguous()) {
  TORCH_CHECK(weight.sizes() == at::IntArrayRef({C, 1, 3, 3}) &&
                  weight.scalar_type() == at::kFloat,
              "light_nl: expected a float32 weight (", C, ", 1, 3, 3), got ",
              weight.scalar_type(), " ", weight.sizes());
  TORCH_CHECK(bias.sizes() == at::IntArrayRef({C}) && bias.scalar_type() == at::kFloat,
              "light_nl: expected a float32 bias (", C, "), got ", bias.scalar_type(), " ",
              bias.sizes());
  TORCH_CHECK(0 < k && k <= C && stride > 0 && dilation > 0,
              "light_nl: expected 0 < k <= ", C, " and positive stride and dilation, got ", k,
              ", ", stride, ", ", dilation);
}

// Adds to the k x C context matrix what rows first to last of the samples give.
void LightNL::add_context(const float* x, int64_t first, int64_t last, float* context) const {
  const int64_t row = stride * W * C, sample = stride * C;
  const float* rows = x + first * row;
  if (stride == 1)
    return add_product({rows, 1, C}, {rows, C}, context, C, k, C, (last - first) * W);
  for (int64_t i = first; i < last; i++, rows += row)
    add_product({rows, 1, sample}, {rows, sample}, context, C, k, C, w);
}

void LightNL::operator()(const float* x, const float* residual, float* out) const {
  const float scale = 1.f / (H * W);
  const int64_t positions = h * w;
  // `factor` is (k, columns). Channel order: the context. Spatial order: the first k
  // channels of the samples, transposed.
  const int64_t columns = spatial ? (positions + LANES - 1) / LANES * LANES : C;
  std::vector<float> factor(k * columns);
  std::vector<float> samples(spatial && stride > 1 ? positions * C : 0);
  const float* values = x;
  if (spatial) {
    for (int64_t q = 0; q < positions; q++) {
      const float* from = x + q / w * stride * W * C + q % w * stride * C;
      for (int64_t i = 0; i < k; i++) factor[i * columns + q] = from[i] * scale;
      if (stride > 1) std::copy_n(from, C, samples.data() + q * C);
    }
    if (stride > 1) values = samples.data();
  } else {
    // Each thread sums its share: the first one in `factor`, the rest in `others`.
    const int64_t shares = parts_of(h), size = k * C;
    std::vector<float> others((shares - 1) * size);
    at::parallel_for(0, shares, 1, [&](int64_t begin, int64_t end) {
      for (int64_t s = begin; s < end; s++)
        add_context(x, s * h / shares, (s + 1) * h / shares,
                    s ? others.data() + (s - 1) * size : factor.data());
    });
    for (size_t i = 0; i < others.size(); i++) factor[i % size] += others[i];
    for (float& f : factor) f *= scale;
  }

  const int64_t bands = parts_of(H);
  at::parallel_for(0, bands, 1, [&](int64_t begin, int64_t end) {
    const int64_t line = (W + 2 * dilation) * C, lines = 2 * dilation + 1;
    std::vector<float> y(lines * line), zeros(line);
    std::vector<float> affinity(spatial ? W * columns : 0);
    const int64_t first = begin * H / bands, last = end * H / bands;
    int64_t next = std::max<int64_t>(0, first - dilation);  // the next row of y to compute
    for (int64_t r = first; r < last; r++) {
      for (; next < std::min(H, r + dilation + 1); next++) {
        const Left rows = {x + next * W * C, C, 1};
        float* const to = y.data() + next % lines * line + dilation * C;
        if (spatial) {
          product(rows, {factor.data(), columns}, affinity.data(), columns, W, columns, k);
          product({affinity.data(), columns, 1}, {values, C}, to, C, W, C, positions);
        } else {
          product(rows, {factor.data(), columns}, to, C, W, C, k);
        }
      }
      const float* three[3];
      for (int64_t t = 0; t < 3; t++) {
        const int64_t q = r + (t - 1) * dilation;
        three[t] = q < 0 || q >= H ? zeros.data() : y.data() + q % lines * line;
      }
      const int64_t at = r * W * C;
      convolve(three, x + at, residual ? residual + at : nullptr, taps.data_ptr<float>(),
               shift.data_ptr<float>(), out + at, W, C, dilation);
    }
  });
}

at::Tensor light_nl(const at::Tensor& input, const at::Tensor& weight, const at::Tensor& bias,
                    const std::optional<at::Tensor>& residual, int64_t k, int64_t stride,
                    int64_t dilation, bool spatial) {
  TORCH_CHECK(input.dim() == 4 && input.scalar_type() == at::kFloat,
              "light_nl: expected a float32 feature map (N, C, H, W), got ",
              input.scalar_type(), " ", input.sizes());
  TORCH_CHECK(!residual || (residual->sizes() == input.sizes() &&
                            residual->scalar_type() == at::kFloat),
              "light_nl: expected a float32 residual ", input.sizes());
  const LightNL layer(input.sizes(), weight, bias, k, stride, dilation, spatial);
  if (!input.numel()) return at::empty_like(input);

  const auto features = input.contiguous(at::MemoryFormat::ChannelsLast);
  const auto other = residual ? residual->contiguous(at::MemoryFormat::ChannelsLast)
                              : features;
  auto result = at::empty_like(features, at::MemoryFormat::ChannelsLast);
  const int64_t image = input[0].numel();
  const float* const x = features.data_ptr<float>();
  const float* const add = residual ? other.data_ptr<float>() : nullptr;
  float* const out = result.data_ptr<float>();
  for_images(input.size(0), 1, [&](int64_t n, int64_t) {
    layer(x + n * image, add ? add + n * image : nullptr, out + n * image);
  });
  return result.contiguous(format_of(input));
}

// Shape and memory format of the result, for torch.compile.
at::Tensor light_nl_meta(const at::Tensor& input, const at::Tensor&, const at::Tensor&,
                         const std::optional<at::Tensor>&, int64_t, int64_t, int64_t, bool) {
  return at::empty_like(input, format_of(input));
}

TORCH_LIBRARY_FRAGMENT(autonl_mm, m) {
  m.def(
      "light_nl(Tensor x, Tensor weight, Tensor bias, Tensor? residual, int nl_channels, "
      "int stride, int dilation, bool spatial) -> Tensor");
}
TORCH_LIBRARY_IMPL(autonl_mm, CPU, m) { m.impl("light_nl", &light_nl); }
TORCH_LIBRARY_IMPL(autonl_mm, Meta, m) { m.impl("light_nl", &light_nl_meta); }

}  // namespace autonl_mm
