// Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
//
// LightNL in deploy form as one operator on a CPU, float32:
// x + depthwise3x3(light_nl(x)) + bias, and the block's residual. A row of
// y = light_nl(x) is computed when the convolution comes to it and is in the cache
// while it is needed; x is read twice and nothing but the result is written.
//
// Maps are channels_last: a row a position, C numbers each.
#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <torch/library.h>

#include <algorithm>
#include <vector>

// One binary for every processor: the loops are compiled for each of these.
#if defined(__x86_64__) && defined(__gnu_linux__)
#define FOR_EACH_TARGET \
  __attribute__((flatten, target_clones("fma", "default")))
#else
#define FOR_EACH_TARGET
#endif
#define INLINE inline __attribute__((always_inline))

namespace autonl_mm {

constexpr int64_t LANES = 8;
typedef float Vec __attribute__((vector_size(4 * LANES), aligned(4)));

INLINE Vec& at_vec(float* p) { return *reinterpret_cast<Vec*>(p); }
INLINE const Vec& at_vec(const float* p) { return *reinterpret_cast<const Vec*>(p); }

// (rows, depth), elements `row` and `col` apart
struct Left {
  const float* data;
  int64_t row, col;
};

// (depth, cols) or (rows, cols), rows `row` apart
struct Right {
  const float* data;
  int64_t row;
};

struct Out {
  float* data;
  int64_t row;
};

// R rows and B * LANES columns of a product, kept in registers.
template <int R, int B, bool ADD>
INLINE void tile(Left a, Right b, Out out, int64_t depth) {
  Vec sum[R][B];
  for (int r = 0; r < R; r++)
    for (int j = 0; j < B; j++)
      sum[r][j] = ADD ? at_vec(out.data + r * out.row + j * LANES) : Vec{};
  for (int64_t i = 0; i < depth; i++) {
    Vec right[B];
    for (int j = 0; j < B; j++) right[j] = at_vec(b.data + i * b.row + j * LANES);
    for (int r = 0; r < R; r++) {
      const float left = a.data[r * a.row + i * a.col];
      for (int j = 0; j < B; j++) sum[r][j] += left * right[j];
    }
  }
  for (int r = 0; r < R; r++)
    for (int j = 0; j < B; j++) at_vec(out.data + r * out.row + j * LANES) = sum[r][j];
}

template <int R, bool ADD>
INLINE void panel(Left a, Right b, Out out, int64_t cols, int64_t depth) {
  int64_t c = 0;
  for (; c + 2 * LANES <= cols; c += 2 * LANES)
    tile<R, 2, ADD>(a, {b.data + c, b.row}, {out.data + c, out.row}, depth);
  for (; c + LANES <= cols; c += LANES)
    tile<R, 1, ADD>(a, {b.data + c, b.row}, {out.data + c, out.row}, depth);
  for (; c < cols; c++)
    for (int r = 0; r < R; r++) {
      float sum = ADD ? out.data[r * out.row + c] : 0;
      for (int64_t i = 0; i < depth; i++)
        sum += a.data[r * a.row + i * a.col] * b.data[i * b.row + c];
      out.data[r * out.row + c] = sum;
    }
}

template <bool ADD>
INLINE void all_panels(Left a, Right b, Out out, int64_t rows, int64_t cols, int64_t depth) {
  // Six rows of two vectors each are what 16 registers hold. Seven are better done
  // as three and four than as six and one, which would wait for its own sums.
  const int64_t panels = (rows + 5) / 6;
  for (int64_t p = 0; p < panels; p++) {
    const int64_t first = p * rows / panels, last = (p + 1) * rows / panels;
    const Left left = {a.data + first * a.row, a.row, a.col};
    const Out to = {out.data + first * out.row, out.row};
    switch (last - first) {
      case 6: panel<6, ADD>(left, b, to, cols, depth); break;
      case 5: panel<5, ADD>(left, b, to, cols, depth); break;
      case 4: panel<4, ADD>(left, b, to, cols, depth); break;
      case 3: panel<3, ADD>(left, b, to, cols, depth); break;
      case 2: panel<2, ADD>(left, b, to, cols, depth); break;
      case 1: panel<1, ADD>(left, b, to, cols, depth); break;
    }
  }
}

// out = a b
FOR_EACH_TARGET
void product(Left a, Right b, Out out, int64_t rows, int64_t cols, int64_t depth) {
  all_panels<false>(a, b, out, rows, cols, depth);
}

// out += a b
FOR_EACH_TARGET
void add_product(Left a, Right b, Out out, int64_t rows, int64_t cols, int64_t depth) {
  all_panels<true>(a, b, out, rows, cols, depth);
}

// A row of the result: x + bias + the taps, (9, C), on three rows of y, which
// have `dilation` positions of zeros before and after their W; and the residual
// if there is one.
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

// Parts that each picture falls into so that all threads have work.
int64_t parts_of(int64_t pictures, int64_t rows) {
  const int64_t threads = at::get_num_threads();
  return std::min((threads + pictures - 1) / pictures, rows);
}

at::Tensor light_nl(const at::Tensor& input, const at::Tensor& weight, const at::Tensor& bias,
                    const c10::optional<at::Tensor>& residual, int64_t k, int64_t stride,
                    int64_t dilation, bool spatial) {
  TORCH_CHECK(input.dim() == 4 && input.scalar_type() == at::kFloat,
              "light_nl: expected a float32 map (N, C, H, W), got ", input.scalar_type(), " ",
              input.sizes());
  const int64_t N = input.size(0), C = input.size(1), H = input.size(2), W = input.size(3);
  TORCH_CHECK(weight.sizes() == at::IntArrayRef({C, 1, 3, 3}) &&
                  weight.scalar_type() == at::kFloat,
              "light_nl: expected a float32 weight (", C, ", 1, 3, 3), got ",
              weight.scalar_type(), " ", weight.sizes());
  TORCH_CHECK(bias.sizes() == at::IntArrayRef({C}) && bias.scalar_type() == at::kFloat,
              "light_nl: expected a float32 bias (", C, "), got ", bias.scalar_type(), " ",
              bias.sizes());
  TORCH_CHECK(!residual || (residual->sizes() == input.sizes() &&
                            residual->scalar_type() == at::kFloat),
              "light_nl: expected a float32 residual ", input.sizes());
  TORCH_CHECK(0 < k && k <= C && stride > 0 && dilation > 0,
              "light_nl: expected 0 < k <= ", C, " and positive stride and dilation, got ", k,
              ", ", stride, ", ", dilation);

  if (!input.numel()) return at::empty_like(input);

  const auto map = input.contiguous(at::MemoryFormat::ChannelsLast);
  const auto other = residual ? residual->contiguous(at::MemoryFormat::ChannelsLast) : map;
  const float* const add = residual ? other.data_ptr<float>() : nullptr;
  const auto kernel = weight.contiguous(), shift = bias.contiguous();
  std::vector<float> taps(9 * C);
  for (int64_t c = 0; c < C; c++)
    for (int64_t t = 0; t < 9; t++) taps[t * C + c] = kernel.data_ptr<float>()[c * 9 + t];
  auto result = at::empty_like(map, at::MemoryFormat::ChannelsLast);
  const float* const x = map.data_ptr<float>();
  float* const out = result.data_ptr<float>();
  const float scale = 1.f / (H * W);
  const int64_t h = (H + stride - 1) / stride, w = (W + stride - 1) / stride;
  const int64_t sampled_row = stride * W * C, sampled = stride * C;

  // The k x C context matrix by some rows of samples, added to what is there.
  const auto add_context = [&](int64_t n, int64_t first, int64_t last, float* context) {
    const float* rows = x + n * H * W * C + first * sampled_row;
    if (stride == 1)
      return add_product({rows, 1, C}, {rows, C}, {context, C}, k, C, (last - first) * W);
    for (int64_t i = first; i < last; i++, rows += sampled_row)
      add_product({rows, 1, sampled}, {rows, sampled}, {context, C}, k, C, w);
  };
  // Where there are fewer pictures than threads, all of them make shares of it
  // first. Otherwise it is made below, so that the picture stays in the cache.
  const int64_t shares = spatial ? 1 : parts_of(N, h);
  std::vector<float> contexts(shares > 1 ? N * shares * k * C : 0);
  if (shares > 1)
    at::parallel_for(0, N * shares, 1, [&](int64_t begin, int64_t end) {
      for (int64_t item = begin; item < end; item++) {
        const int64_t share = item % shares;
        add_context(item / shares, share * h / shares, (share + 1) * h / shares,
                    contexts.data() + item * k * C);
      }
    });

  const int64_t bands = parts_of(N, H);
  const int64_t positions = h * w, affinities = (positions + LANES - 1) / LANES * LANES;
  at::parallel_for(0, N * bands, 1, [&](int64_t begin, int64_t end) {
    const int64_t line = (W + 2 * dilation) * C, lines = 2 * dilation + 1;
    std::vector<float> y(lines * line), zeros(line);
    // channel order: the context; spatial order: samples' first k channels, transposed
    const int64_t columns = spatial ? affinities : C;
    std::vector<float> factor(k * columns);
    std::vector<float> affinity(spatial ? W * affinities : 0);
    std::vector<float> samples(spatial && stride > 1 ? positions * C : 0);
    for (int64_t item = begin; item < end; item++) {
      const int64_t n = item / bands, band = item % bands;
      const int64_t first = band * H / bands, last = (band + 1) * H / bands;
      const float* const picture = x + n * H * W * C;
      const float* values = picture;
      std::fill(factor.begin(), factor.end(), 0.f);
      if (spatial) {
        for (int64_t q = 0; q < positions; q++) {
          const float* from = picture + q / w * sampled_row + q % w * sampled;
          for (int64_t i = 0; i < k; i++) factor[i * columns + q] = from[i] * scale;
          if (stride > 1) std::copy_n(from, C, samples.data() + q * C);
        }
        if (stride > 1) values = samples.data();
      } else {
        if (shares == 1) {
          add_context(n, 0, h, factor.data());
        } else {
          const float* context = contexts.data() + n * shares * k * C;
          for (int64_t share = 0; share < shares; share++, context += k * C)
            for (int64_t i = 0; i < k * C; i++) factor[i] += context[i];
        }
        for (float& f : factor) f *= scale;
      }
      int64_t next = std::max<int64_t>(0, first - dilation);  // row of y
      for (int64_t r = first; r < last; r++) {
        for (; next < std::min(H, r + dilation + 1); next++) {
          const Left rows = {picture + next * W * C, C, 1};
          const Out to = {y.data() + next % lines * line + dilation * C, C};
          if (spatial) {
            product(rows, {factor.data(), columns}, {affinity.data(), columns}, W, columns, k);
            product({affinity.data(), columns, 1}, {values, C}, to, W, C, positions);
          } else {
            product(rows, {factor.data(), columns}, to, W, C, k);
          }
        }
        const float* three[3];
        for (int64_t t = 0; t < 3; t++) {
          const int64_t q = r + (t - 1) * dilation;
          three[t] = q < 0 || q >= H ? zeros.data() : y.data() + q % lines * line;
        }
        const int64_t at = (n * H + r) * W * C;
        convolve(three, x + at, add ? add + at : nullptr, taps.data(), shift.data_ptr<float>(),
                 out + at, W, C, dilation);
      }
    }
  });
  return input.is_contiguous(at::MemoryFormat::ChannelsLast) ? result : result.contiguous();
}

// What the result looks like, for torch.compile.
at::Tensor light_nl_meta(const at::Tensor& input, const at::Tensor&, const at::Tensor&,
                         const c10::optional<at::Tensor>&, int64_t, int64_t, int64_t, bool) {
  return at::empty_like(input, input.is_contiguous(at::MemoryFormat::ChannelsLast)
                                   ? at::MemoryFormat::ChannelsLast
                                   : at::MemoryFormat::Contiguous);
}

}  // namespace autonl_mm

TORCH_LIBRARY(autonl_mm, m) {
  m.def(
      "light_nl(Tensor x, Tensor weight, Tensor bias, Tensor? residual, int nl_channels, "
      "int stride, int dilation, bool spatial) -> Tensor");
}
TORCH_LIBRARY_IMPL(autonl_mm, CPU, m) { m.impl("light_nl", &autonl_mm::light_nl); }
TORCH_LIBRARY_IMPL(autonl_mm, Meta, m) { m.impl("light_nl", &autonl_mm::light_nl_meta); }
