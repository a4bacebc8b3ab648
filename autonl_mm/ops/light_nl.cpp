// Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
//
// LightNL in deploy form as one operator on a CPU, float32:
// x + depthwise3x3(light_nl(x)) + bias, and the block's residual. Each row of
// y = light_nl(x) is computed just before the convolution needs it and stays in the
// cache for as long as it is needed; x is read twice, and only the result is
// written. light_nl(x) is over the size of the feature map or over its root mean
// square, as in autonl_mm/models/layers/light_nl.py.
//
// Feature maps are channels_last: the C numbers of one position lie together.
#include "light_nl.h"

#include <torch/library.h>

#include <algorithm>
#include <cmath>
#include <string>
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

// The sum of the products of two arrays.
FOR_EACH_TARGET
double dot(const float* a, const float* b, int64_t size) {
  Vec sums = {};
  int64_t i = 0;
  for (; i + LANES <= size; i += LANES) sums += at_vec(a + i) * at_vec(b + i);
  double sum = 0;
  for (int64_t l = 0; l < LANES; l++) sum += sums[l];
  for (; i < size; i++) sum += a[i] * b[i];
  return sum;
}

// Divides an array by its largest absolute value, so that squares stay in the range
// of floats. Returns this value, or 1 for zeros.
float normalise(std::vector<float>& values) {
  float largest = 0;
  for (const float v : values) {
    if (std::isnan(v)) return v;  // of which there is no largest value
    largest = std::max(largest, std::abs(v));
  }
  if (largest == 0) return 1;
  for (float& v : values) v /= largest;
  return largest;
}

// 1 / sqrt(square), and 0 where y is zero. NaN stays NaN.
float inverse_root(double square) { return square <= 0 ? 0.f : float(1 / std::sqrt(square)); }

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
                 int64_t k, int64_t stride, int64_t dilation, bool spatial,
                 const std::string& normalize)
    : C(sizes[1]), H(sizes[2]), W(sizes[3]), k(k), stride(stride), dilation(dilation),
      h(stride > 0 ? (H + stride - 1) / stride : 0), w(stride > 0 ? (W + stride - 1) / stride : 0),
      spatial(spatial), rms(normalize == "rms"), taps(outputs_last(weight)), shift(bias.contiguous()) {
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
  TORCH_CHECK(rms || normalize == "size", "light_nl: expected normalize rms or size, got ",
              normalize);
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

// Channel order: the context over the scale, so that x_c context is y.
LightNL::Factors LightNL::context_of(const float* x) const {
  Factors factors = {std::vector<float>(k * C), C, {}, nullptr};
  std::vector<float>& context = factors.left;
  // Each thread sums its share: the first one in `context`, the rest in `others`.
  const int64_t shares = parts_of(h), size = k * C;
  std::vector<float> others((shares - 1) * size);
  at::parallel_for(0, shares, 1, [&](int64_t begin, int64_t end) {
    for (int64_t s = begin; s < end; s++)
      add_context(x, s * h / shares, (s + 1) * h / shares,
                  s ? others.data() + (s - 1) * size : context.data());
  });
  for (size_t i = 0; i < others.size(); i++) context[i % size] += others[i];
  float scale = 1.f / (H * W);
  if (rms) {
    // The sum of the squares of y is tr(M^T G M), G the first k columns of M.
    const float largest = normalise(context);
    std::vector<float> product_of_small(size);
    product({context.data(), C, 1}, {context.data(), C}, product_of_small.data(), C, k, C, k);
    double trace = 0;
    for (int64_t i = 0; i < k; i++)
      trace += dot(context.data() + i * C, product_of_small.data() + i * C, C);
    scale = inverse_root(trace * largest / (double(h * w) * C));
  }
  for (float& f : context) f *= scale;
  return factors;
}

// Spatial order: the samples, and the first k channels of them over the scale. For the
// root mean square this is not the scale of y yet, see scale_of_rows.
LightNL::Factors LightNL::samples_of(const float* x) const {
  const int64_t positions = h * w, columns = (positions + LANES - 1) / LANES * LANES;
  Factors factors = {std::vector<float>(k * columns), columns,
                     std::vector<float>(stride > 1 ? positions * C : 0), x};
  const float scale = rms ? 1.f : 1.f / (H * W);
  for (int64_t q = 0; q < positions; q++) {
    const float* from = x + q / w * stride * W * C + q % w * stride * C;
    for (int64_t i = 0; i < k; i++) factors.left[i * columns + q] = from[i] * scale;
    if (stride > 1) std::copy_n(from, C, factors.samples.data() + q * C);
  }
  if (stride > 1) factors.right = factors.samples.data();
  if (rms) {
    // Over the size of the features twice: then y is of their size, not of its square.
    const float largest = normalise(factors.left);
    for (float& f : factors.left) f /= largest;
  }
  return factors;
}

// One row of y, (W, C). `x` is the same row of x. `affinity` is (W, columns).
void LightNL::row_of(const float* x, const Factors& factors, float* affinity, float* y) const {
  const int64_t columns = factors.columns;
  if (!spatial) return product({x, C, 1}, {factors.left.data(), C}, y, C, W, C, k);
  product({x, C, 1}, {factors.left.data(), columns}, affinity, columns, W, columns, k);
  product({affinity, columns, 1}, {factors.right, C}, y, C, W, C, h * w);
}

// Computes all of y, (H, W, C), in the spatial order; returns what it must be
// multiplied by for a root mean square of 1 at the sampled positions.
float LightNL::scale_of_rows(const float* x, const Factors& factors, float* y) const {
  const int64_t shares = parts_of(H);
  std::vector<double> squares(shares);
  at::parallel_for(0, shares, 1, [&](int64_t begin, int64_t end) {
    std::vector<float> affinity(W * factors.columns);
    for (int64_t s = begin; s < end; s++)
      for (int64_t r = s * H / shares; r < (s + 1) * H / shares; r++) {
        float* const row = y + r * W * C;
        row_of(x + r * W * C, factors, affinity.data(), row);
        for (int64_t i = 0; r % stride == 0 && i < W; i += stride)
          squares[s] += dot(row + i * C, row + i * C, C);
      }
  });
  double sum = 0;
  for (const double square : squares) sum += square;
  return inverse_root(sum / (double(h * w) * C));
}

void LightNL::operator()(const float* x, const float* residual, float* out) const {
  const Factors factors = spatial ? samples_of(x) : context_of(x);
  // The root mean square in the spatial order needs all of y before any of it is
  // used. This order is the cheaper one for small feature maps only. The convolution
  // is linear, so that its kernel takes the scale.
  const bool whole = spatial && rms;
  std::vector<float> all(whole ? H * W * C : 0), scaled_taps;
  const float* kernel = taps.data_ptr<float>();
  if (whole) {
    const float scale = scale_of_rows(x, factors, all.data());
    for (int64_t i = 0; i < 9 * C; i++) scaled_taps.push_back(kernel[i] * scale);
    kernel = scaled_taps.data();
  }

  const int64_t bands = parts_of(H);
  at::parallel_for(0, bands, 1, [&](int64_t begin, int64_t end) {
    const int64_t line = (W + 2 * dilation) * C, lines = 2 * dilation + 1;
    std::vector<float> y(lines * line), zeros(line);
    std::vector<float> affinity(spatial && !whole ? W * factors.columns : 0);
    const int64_t first = begin * H / bands, last = end * H / bands;
    int64_t next = std::max<int64_t>(0, first - dilation);  // the next row of y to compute
    for (int64_t r = first; r < last; r++) {
      for (; next < std::min(H, r + dilation + 1); next++) {
        float* const to = y.data() + next % lines * line + dilation * C;
        if (whole)
          std::copy_n(all.data() + next * W * C, W * C, to);
        else
          row_of(x + next * W * C, factors, affinity.data(), to);
      }
      const float* three[3];
      for (int64_t t = 0; t < 3; t++) {
        const int64_t q = r + (t - 1) * dilation;
        three[t] = q < 0 || q >= H ? zeros.data() : y.data() + q % lines * line;
      }
      const int64_t at = r * W * C;
      convolve(three, x + at, residual ? residual + at : nullptr, kernel,
               shift.data_ptr<float>(), out + at, W, C, dilation);
    }
  });
}

at::Tensor light_nl(const at::Tensor& input, const at::Tensor& weight, const at::Tensor& bias,
                    const std::optional<at::Tensor>& residual, int64_t k, int64_t stride,
                    int64_t dilation, bool spatial, const std::string& normalize) {
  TORCH_CHECK(input.dim() == 4 && input.scalar_type() == at::kFloat,
              "light_nl: expected a float32 feature map (N, C, H, W), got ",
              input.scalar_type(), " ", input.sizes());
  TORCH_CHECK(!residual || (residual->sizes() == input.sizes() &&
                            residual->scalar_type() == at::kFloat),
              "light_nl: expected a float32 residual ", input.sizes());
  const LightNL layer(input.sizes(), weight, bias, k, stride, dilation, spatial, normalize);
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
                         const std::optional<at::Tensor>&, int64_t, int64_t, int64_t, bool,
                         const std::string&) {
  return at::empty_like(input, format_of(input));
}

TORCH_LIBRARY_FRAGMENT(autonl_mm, m) {
  m.def(
      "light_nl(Tensor x, Tensor weight, Tensor bias, Tensor? residual, int nl_channels, "
      "int stride, int dilation, bool spatial, str normalize) -> Tensor");
}
TORCH_LIBRARY_IMPL(autonl_mm, CPU, m) { m.impl("light_nl", &light_nl); }
TORCH_LIBRARY_IMPL(autonl_mm, Meta, m) { m.impl("light_nl", &light_nl_meta); }

}  // namespace autonl_mm
