// Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
//
// An inverted residual block in deploy form as one operator on a CPU, float32:
// 1x1 expand, depthwise, squeeze-excite, 1x1 project, LightNL, identity add. The
// expanded feature map, which is most of what a block reads and writes, never exists
// as a whole: a few of its channels and rows are computed at a time and convolved
// depthwise while they are in the cache.
//
// Feature maps are channels_last: the C numbers of one position lie together.
#include <torch/library.h>

#include <algorithm>
#include <array>
#include <limits>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "light_nl.h"
#include "tile.h"

namespace autonl_mm {
namespace {

enum Kind { CLAMP, SILU, HARDSWISH };

// CLAMP is ReLU, ReLU6 and no activation: code is compiled for each kind.
struct Activation {
  Kind kind;
  float low = 0, high = 0;  // of CLAMP
};
constexpr float INF = std::numeric_limits<float>::infinity();
constexpr Activation NONE = {CLAMP, -INF, INF};

typedef int32_t Ints __attribute__((vector_size(4 * LANES), aligned(4)));

// 1 + exp(-x), with x clamped to [-60, 60]: beyond, x / (1 + exp(-x)) is x, or less
// than 1e-26 x. The relative error is 2e-7, and 1e-6 at -60. exp(-x) is 2^n 2^f: the
// bits of a sum give 2^n, and 2^f, for f in [-0.5, 0.5], is the polynomial of minimum
// relative error, 7.5e-8.
INLINE Vec one_plus_exp(Vec x) {
  const Vec low = Vec{} - 60.f, high = Vec{} + 60.f;
  x = x < low ? low : x;
  x = x > high ? high : x;
  // The last bits of x * scale + bits are n + 127, the exponent of a float.
  const float scale = -1.44269504f, bits = 12582912.f + 127.f;
  const Vec sum = x * scale + bits;
  const Vec f = x * scale - (sum - bits);
  Vec p = f * 1.32764720e-3f + 9.67554133e-3f;
  p = p * f + 5.55071327e-2f;
  p = p * f + 2.40221197e-1f;
  p = p * f + 6.93146967e-1f;
  p = p * f + 1.f;
  return p * (Vec)((Ints)sum << 23) + 1.f;
}

// NaN stays NaN.
INLINE Vec clamp(Vec x, float low, float high) {
  x = x < low ? Vec{} + low : x;
  return x > high ? Vec{} + high : x;
}

template <Kind KIND>
INLINE Vec activate(Vec x, const Activation& act) {
  if (KIND == SILU) return x / one_plus_exp(x);
  if (KIND == HARDSWISH) return x * clamp(x + 3.f, 0.f, 6.f) * (1.f / 6.f);
  return clamp(x, act.low, act.high);
}

// The activation of a name; throws if there is none.
Activation activation_of(const std::string& name) {
  if (name == "silu") return {SILU};
  if (name == "hardswish") return {HARDSWISH};
  if (name == "relu") return {CLAMP, 0, INF};
  TORCH_CHECK(name == "relu6",
              "mbconv: expected an activation silu, hardswish, relu or relu6, got ", name);
  return {CLAMP, 0, 6};
}

// Channels that are computed together: as many vectors as a tile has.
struct Slice {
  int64_t first;
  int vectors;
  int64_t width() const { return vectors * LANES; }
};
constexpr int64_t MAX_WIDTH = 3 * LANES;  // of a slice
constexpr int64_t CACHE = 512 * 1024 / sizeof(float);  // half of the L2 cache of many cores

// Calls f.operator()<kind>().
template <class F>
INLINE void with_kind(Kind kind, F f) {
  switch (kind) {
    case CLAMP: return f.template operator()<CLAMP>();
    case SILU: return f.template operator()<SILU>();
    case HARDSWISH: return f.template operator()<HARDSWISH>();
  }
}

// Calls f.operator()<vectors, kind>().
template <class F>
INLINE void with_constants(int vectors, Kind kind, F f) {
  with_kind(kind, [&]<Kind KIND>() INLINE_LAMBDA {
    switch (vectors) {
      case 1: return f.template operator()<1, KIND>();
      case 2: return f.template operator()<2, KIND>();
      case 3: return f.template operator()<3, KIND>();
    }
  });
}

// A slice of a 1x1 convolution of `rows` positions with `depth` channels:
// act(a panel + bias) + residual. `panel` is (depth, width). The result for position
// i is written at out + place[i], or at out + i * out_row if `place` is null.
FOR_EACH_TARGET
void convolve_1x1(const float* a, int64_t rows, int64_t depth, const float* panel,
                  const float* bias, int vectors, Activation act, const float* residual,
                  float* out, int64_t out_row, const int32_t* place) {
  with_constants(vectors, act.kind, [&]<int B, Kind KIND>() INLINE_LAMBDA {
    in_panels<ROWS<B>>(rows, [&]<int R>(int64_t first) INLINE_LAMBDA {
      tile<R, B>({a + first * depth, depth, 1}, {panel, B * LANES}, depth,
                 [&](int, int j) INLINE_LAMBDA { return at_vec(bias + j * LANES); },
                 [&](int r, int j, Vec sum) INLINE_LAMBDA {
                   const int64_t i = first + r;
                   const int64_t at = (place ? place[i] : i * out_row) + j * LANES;
                   sum = activate<KIND>(sum, act);
                   at_vec(out + at) = residual ? sum + at_vec(residual + at) : sum;
                 });
    });
  });
}

// Copies a slice of `rows` positions with `channels` channels to out + place[i].
FOR_EACH_TARGET
void copy_slice(const float* x, int64_t rows, int64_t channels, int vectors, float* out,
                const int32_t* place) {
  for (int64_t i = 0; i < rows; i++)
    for (int j = 0; j < vectors; j++)
      at_vec(out + place[i] + j * LANES) = at_vec(x + i * channels + j * LANES);
}

// Not std::vector, which would first fill the memory with zeros.
using Memory = std::unique_ptr<float[]>;
Memory uninitialised(int64_t size) { return Memory(new float[size]); }

// Some rows of a slice of a feature map, with zeros around them: (rows, cols, width).
struct Padded {
  Padded(int64_t max_rows, int64_t inner_cols, int64_t pad)
      : cols(inner_cols + 2 * pad), data(uninitialised(max_rows * cols * MAX_WIDTH)),
        inner_cols(inner_cols), pad(pad) {}

  // Rows first to last are those of the feature map, the others are padding.
  void reshape(int64_t rows, int64_t first, int64_t last, int64_t width) {
    if (shape == std::array{rows, first, last, width}) return;  // the zeros are there already
    shape = {rows, first, last, width};
    std::fill_n(data.get(), rows * cols * width, 0.f);
    place.clear();
    for (int64_t i = first; i < last; i++)
      for (int64_t j = pad; j < pad + inner_cols; j++) place.push_back((i * cols + j) * width);
  }

  const int64_t cols;
  const Memory data;
  std::vector<int32_t> place;  // where each position of the feature map lies

 private:
  const int64_t inner_cols, pad;
  std::array<int64_t, 4> shape{};
};

struct Depthwise {
  const float *taps, *bias;  // (kernel * kernel, channels), (channels)
  int64_t channels, kernel, stride, dilation;
};

// A slice of a depthwise convolution, act(conv + bias), of `rows` x `cols` positions
// that are `conv.channels` numbers apart, and the sums over these positions. x is
// (..., x_cols, width), padding included.
FOR_EACH_TARGET
void convolve_depthwise(const float* x, int64_t x_cols, const Depthwise& conv, int vectors,
                        Activation act, int64_t rows, int64_t cols, float* out, float* sums) {
  with_constants(vectors, act.kind, [&]<int B, Kind KIND>() INLINE_LAMBDA {
    constexpr int64_t width = B * LANES;
    Vec total[B] = {};
    for (int64_t row = 0; row < rows; row++)
      in_panels<4>(cols, [&]<int R>(int64_t first) INLINE_LAMBDA {
        const float* from = x + conv.stride * (row * x_cols + first) * width;
        float* const to = out + (row * cols + first) * conv.channels;
        Vec sum[R][B];
        for (int r = 0; r < R; r++)
          for (int j = 0; j < B; j++) sum[r][j] = at_vec(conv.bias + j * LANES);
        const float* tap = conv.taps;
        for (int64_t i = 0; i < conv.kernel; i++)
          for (int64_t k = 0; k < conv.kernel; k++, tap += conv.channels) {
            const float* at = from + conv.dilation * (i * x_cols + k) * width;
            for (int j = 0; j < B; j++) {
              const Vec weight = at_vec(tap + j * LANES);
              for (int r = 0; r < R; r++)
                sum[r][j] += weight * at_vec(at + r * conv.stride * width + j * LANES);
            }
          }
        for (int r = 0; r < R; r++)
          for (int j = 0; j < B; j++) {
            const Vec y = activate<KIND>(sum[r][j], act);
            total[j] += y;
            at_vec(to + r * conv.channels + j * LANES) = y;
          }
      });
    for (int j = 0; j < B; j++) at_vec(sums + j * LANES) = total[j];
  });
}

struct SqueezeExcite {
  const float *reduce, *reduce_bias;  // (hidden, channels), (hidden)
  const float *expand, *expand_bias;  // (hidden, channels), (channels)
  int64_t channels, hidden;
};

// sigmoid(expand(act(reduce(mean)))), (channels)
FOR_EACH_TARGET
void squeeze_excite(const float* mean, const SqueezeExcite& se, Activation act, float* gates) {
  std::copy_n(se.expand_bias, se.channels, gates);
  for (int64_t h = 0; h < se.hidden; h++) {
    const float* const row = se.reduce + h * se.channels;
    Vec sums{};
    for (int64_t c = 0; c < se.channels; c += LANES) sums += at_vec(row + c) * at_vec(mean + c);
    float sum = se.reduce_bias[h];
    for (int lane = 0; lane < LANES; lane++) sum += sums[lane];
    const Vec all = Vec{} + sum;
    Vec hidden;
    with_kind(act.kind, [&]<Kind KIND>() INLINE_LAMBDA { hidden = activate<KIND>(all, act); });
    for (int64_t c = 0; c < se.channels; c += LANES)
      at_vec(gates + c) += hidden * at_vec(se.expand + h * se.channels + c);
  }
  for (int64_t c = 0; c < se.channels; c += LANES)
    at_vec(gates + c) = 1.f / one_plus_exp(at_vec(gates + c));
}

// x *= gates, for one position
FOR_EACH_TARGET
void multiply(float* x, const float* gates, int64_t channels) {
  for (int64_t c = 0; c < channels; c += LANES) at_vec(x + c) *= at_vec(gates + c);
}

// Copies a slice's columns of a matrix (depth, channels) to a panel (depth, width).
void pack(const float* matrix, int64_t depth, int64_t channels, const Slice& slice,
          float* panel) {
  const float* row = matrix + slice.first;
  for (int64_t i = 0; i < depth; i++, row += channels)
    for (int64_t j = 0; j < slice.width(); j += LANES) {
      __builtin_prefetch(row + j + 24 * channels);  // one image alone would wait for memory
      at_vec(panel + i * slice.width() + j) = at_vec(row + j);
    }
}

std::vector<Slice> slices_of(int64_t channels) {
  std::vector<Slice> slices;
  for (int64_t first = 0; first < channels; first += slices.back().width())
    slices.push_back({first, vectors_of(channels - first)});
  return slices;
}

using Maybe = std::optional<at::Tensor>;

// A convolution's parameters as the operator reads them: with `transposed`, the
// output channels come last.
struct Conv {
  // Throws if the parameters are not as expected.
  Conv(const char* name, const Maybe& weight, const Maybe& bias, at::IntArrayRef sizes,
       bool transposed) {
    TORCH_CHECK(weight && weight->sizes() == sizes && weight->scalar_type() == at::kFloat &&
                    bias && bias->sizes() == at::IntArrayRef({sizes[0]}) &&
                    bias->scalar_type() == at::kFloat,
                "mbconv: expected a float32 ", name, " weight ", sizes, " with a bias, got ",
                weight ? weight->sizes() : at::IntArrayRef(), bias ? " with" : " without");
    this->weight = transposed ? outputs_last(*weight) : weight->contiguous();
    this->bias = bias->contiguous();
  }
  const float* weights() const { return weight.data_ptr<float>(); }
  const float* biases() const { return bias.data_ptr<float>(); }

 private:
  at::Tensor weight, bias;
};

// The block without LightNL, for feature maps of one size.
struct Block {
  int64_t C, M, O;       // channels in, between and out
  int64_t H, W, oh, ow;  // sizes of the feature maps in and out
  int64_t kernel, stride, dilation;
  Activation act, se_act;
  std::optional<Conv> expand;
  Conv depthwise;
  std::optional<Conv> reduce, gate;  // of squeeze-excite
  int64_t hidden;
  Conv project;

  int64_t pad() const { return dilation * (kernel / 2); }

  // The result is computed in bands of rows, so that the expanded rows that a band
  // needs stay in the cache. Expanded rows that two bands need are computed twice.
  int64_t rows_of_band() const {
    const int64_t fit = (CACHE / ((W + 2 * pad()) * MAX_WIDTH) - 2 * pad() - 1) / stride + 1;
    return std::clamp<int64_t>(fit, 1, oh);
  }
  int64_t bands() const { return (oh + rows_of_band() - 1) / rows_of_band(); }
  Padded padded() const { return {(rows_of_band() - 1) * stride + 2 * pad() + 1, W, pad()}; }

  // The block's output for `images` images, plus `residual` unless that is null.
  void operator()(int64_t images, const float* x, const float* residual, float* out) const {
    if (reduce) return with_se(images, x, residual, out);
    for (int64_t n = 0; n < images; n++)
      without_se(x + n * H * W * C, residual ? residual + n * oh * ow * O : nullptr,
                 out + n * oh * ow * O);
  }

 private:
  void pack_expand(const Slice& slice, float* panel) const {
    if (expand) pack(expand->weights(), C, M, slice, panel);
  }

  // Expansion and depthwise convolution of one slice of one image: rows first to last
  // into `out`, (rows, ow, M), and the sums over their positions into `sums`, (M).
  // `panel` holds the slice's expand weights, see pack_expand.
  void expand_and_convolve(const float* x, const Slice& slice, int64_t first, int64_t last,
                           const float* panel, Padded& padded, float* out,
                           float* sums) const {
    const int64_t top = first * stride - pad(), bottom = (last - 1) * stride + pad() + 1;
    const int64_t from = std::max<int64_t>(top, 0), until = std::min(bottom, H);
    padded.reshape(bottom - top, from - top, until - top, slice.width());
    if (expand)
      convolve_1x1(x + from * W * C, (until - from) * W, C, panel,
                   expand->biases() + slice.first, slice.vectors, act, nullptr, padded.data.get(),
                   0, padded.place.data());
    else
      copy_slice(x + from * W * C + slice.first, (until - from) * W, C, slice.vectors,
                 padded.data.get(), padded.place.data());
    convolve_depthwise(padded.data.get(), padded.cols,
                       {depthwise.weights() + slice.first, depthwise.biases() + slice.first, M,
                        kernel, stride, dilation},
                       slice.vectors, act, last - first, ow, out + slice.first,
                       sums + slice.first);
  }

  void pack_project(const Slice& slice, float* panel) const {
    pack(project.weights(), M, O, slice, panel);
  }

  // One slice of the project convolution, for positions first to last. `middle` is
  // its input for position first.
  void project_positions(const float* middle, const Slice& slice, int64_t first, int64_t last,
                         const float* panel, const float* residual,
                         float* out) const {
    const int64_t at = first * O + slice.first;
    convolve_1x1(middle, last - first, M, panel, project.biases() + slice.first,
                 slice.vectors, NONE, residual ? residual + at : nullptr, out + at, O, nullptr);
  }

  // Without squeeze-excite: each band is projected while it is in the cache.
  void without_se(const float* x, const float* residual, float* out) const {
    // The same number of bands for each thread, if there are enough rows.
    const int64_t parts = parts_of(oh);
    const int64_t bands = std::min((this->bands() + parts - 1) / parts * parts, oh);
    at::parallel_for(0, bands, 1, [&](int64_t begin, int64_t end) {
      Padded buffer = padded();
      const Memory panel = uninitialised(std::max(C, M) * MAX_WIDTH), sums = uninitialised(M);
      const Memory middle = uninitialised(rows_of_band() * ow * M);
      for (int64_t b = begin; b < end; b++) {
        const int64_t first = b * oh / bands, last = (b + 1) * oh / bands;
        for (const Slice& slice : slices_of(M)) {
          pack_expand(slice, panel.get());
          expand_and_convolve(x, slice, first, last, panel.get(), buffer, middle.get(), sums.get());
        }
        for (const Slice& slice : slices_of(O)) {
          pack_project(slice, panel.get());
          project_positions(middle.get(), slice, first * ow, last * ow, panel.get(), residual, out);
        }
      }
    });
  }

  // With squeeze-excite: it needs the whole image before anything can be projected.
  void with_se(int64_t images, const float* x, const float* residual, float* out) const {
    const int64_t bands = this->bands(), positions = oh * ow, size = positions * M;
    const Memory memory = uninitialised(images * size);
    float* const middle = memory.get();
    std::vector<float> sums(images * bands * M), gates(images * M);
    const auto slices = slices_of(M), out_slices = slices_of(O);
    const int64_t n_slices = slices.size(), n_out_slices = out_slices.size();
    at::parallel_for(0, bands * n_slices, 1, [&](int64_t begin, int64_t end) {
      Padded buffer = padded();
      const Memory panel = uninitialised(C * MAX_WIDTH);
      for (int64_t item = begin; item < end; item++) {
        const int64_t b = item / n_slices;
        const int64_t first = b * oh / bands, last = (b + 1) * oh / bands;
        const Slice& slice = slices[item % n_slices];
        pack_expand(slice, panel.get());
        for (int64_t n = 0; n < images; n++)
          expand_and_convolve(x + n * H * W * C, slice, first, last, panel.get(), buffer,
                              middle + n * size + first * ow * M,
                              sums.data() + (n * bands + b) * M);
      }
    });
    for (int64_t n = 0; n < images; n++) {
      std::vector<float> mean(M);
      for (int64_t b = 0; b < bands; b++)
        for (int64_t c = 0; c < M; c++) mean[c] += sums[(n * bands + b) * M + c] / positions;
      squeeze_excite(mean.data(),
                     {reduce->weights(), reduce->biases(), gate->weights(), gate->biases(), M,
                      hidden},
                     se_act, gates.data() + n * M);
    }
    at::parallel_for(0, images * positions, 16, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; i++)
        multiply(middle + i * M, gates.data() + i / positions * M, M);
    });
    // Few positions are split among threads by channels, so that each weight is read
    // only once.
    const int64_t parts = positions < 48 * at::get_num_threads() ? 1 : parts_of(positions);
    at::parallel_for(0, parts * n_out_slices, 1, [&](int64_t begin, int64_t end) {
      const Memory panel = uninitialised(M * MAX_WIDTH);
      for (int64_t item = begin; item < end; item++) {
        const int64_t part = item / n_out_slices;
        const int64_t first = part * positions / parts, last = (part + 1) * positions / parts;
        const Slice& slice = out_slices[item % n_out_slices];
        pack_project(slice, panel.get());
        for (int64_t n = 0; n < images; n++)
          project_positions(middle + n * size + first * M, slice, first, last, panel.get(),
                            residual ? residual + n * positions * O : nullptr,
                            out + n * positions * O);
      }
    });
  }
};

at::Tensor mbconv(const at::Tensor& input, const Maybe& expand_weight, const Maybe& expand_bias,
                  const at::Tensor& depthwise_weight, const at::Tensor& depthwise_bias,
                  const Maybe& reduce_weight, const Maybe& reduce_bias,
                  const Maybe& gate_weight, const Maybe& gate_bias,
                  const at::Tensor& project_weight, const at::Tensor& project_bias,
                  const Maybe& nl_weight, const Maybe& nl_bias, bool identity,
                  const std::string& activation, const std::string& se_activation,
                  int64_t stride, int64_t dilation, int64_t nl_channels, int64_t nl_stride,
                  int64_t nl_dilation, bool nl_spatial, const std::string& nl_normalize) {
  TORCH_CHECK(input.dim() == 4 && input.scalar_type() == at::kFloat,
              "mbconv: expected a float32 feature map (N, C, H, W), got ",
              input.scalar_type(), " ", input.sizes());
  TORCH_CHECK(depthwise_weight.dim() == 4 && project_weight.dim() == 4 &&
                  (!reduce_weight || reduce_weight->dim() == 4),
              "mbconv: expected weights of four dimensions");
  TORCH_CHECK(stride > 0 && dilation > 0,
              "mbconv: expected positive stride and dilation, got ", stride, ", ", dilation);
  const int64_t N = input.size(0), C = input.size(1), H = input.size(2), W = input.size(3);
  const int64_t M = depthwise_weight.size(0), K = depthwise_weight.size(3);
  const int64_t O = project_weight.size(0);
  const int64_t hidden = reduce_weight ? reduce_weight->size(0) : 0;
  TORCH_CHECK(C % LANES == 0 && M % LANES == 0 && O % LANES == 0,
              "mbconv: expected channels that are multiples of ", LANES, ", got ", C, ", ", M,
              " and ", O);
  TORCH_CHECK(K % 2, "mbconv: expected an odd kernel size, got ", K);
  TORCH_CHECK(!identity || (C == O && stride == 1),
              "mbconv: expected stride 1 and as many channels out as in to add the identity");
  const auto maybe = [](const char* name, const Maybe& weight, const Maybe& bias,
                        at::IntArrayRef sizes, bool wanted, bool transposed) {
    return wanted ? std::optional<Conv>(std::in_place, name, weight, bias, sizes, transposed)
                  : std::nullopt;
  };
  const Block block = {
      C, M, O, H, W, (H + stride - 1) / stride, (W + stride - 1) / stride, K, stride, dilation,
      activation_of(activation), activation_of(se_activation),
      maybe("expand", expand_weight, expand_bias, {M, C, 1, 1}, expand_weight.has_value(), true),
      Conv("depthwise", depthwise_weight, depthwise_bias, {expand_weight ? M : C, 1, K, K}, true),
      maybe("reduce", reduce_weight, reduce_bias, {hidden, M, 1, 1}, hidden, false),
      maybe("gate", gate_weight, gate_bias, {M, hidden, 1, 1}, hidden, true), hidden,
      Conv("project", project_weight, project_bias, {O, M, 1, 1}, true)};
  auto result = at::empty({N, O, block.oh, block.ow}, input.options(),
                          at::MemoryFormat::ChannelsLast);
  std::optional<LightNL> light_nl;
  if (nl_weight) {
    TORCH_CHECK(nl_bias, "mbconv: expected a bias of LightNL");
    light_nl.emplace(result.sizes(), *nl_weight, *nl_bias, nl_channels, nl_stride, nl_dilation,
                     nl_spatial, nl_normalize);
  }
  if (!result.numel()) return result;

  const auto features = input.contiguous(at::MemoryFormat::ChannelsLast);
  const int64_t in_size = C * H * W, out_size = O * block.oh * block.ow;
  // Images with small feature maps are computed together, so that the weights are
  // read from the cache.
  const int64_t together = std::max<int64_t>(1, CACHE / (M * block.oh * block.ow));
  for_images(N, together, [&](int64_t first, int64_t last) {
    const float* const x = features.data_ptr<float>() + first * in_size;
    float* const out = result.data_ptr<float>() + first * out_size;
    const float* const residual = identity ? x : nullptr;
    if (!light_nl) return block(last - first, x, residual, out);
    const Memory projected = uninitialised((last - first) * out_size);
    block(last - first, x, nullptr, projected.get());
    for (int64_t at = 0; at < (last - first) * out_size; at += out_size)
      (*light_nl)(projected.get() + at, residual ? residual + at : nullptr, out + at);
  });
  return result.contiguous(format_of(input));
}

// Shape and memory format of the result, for torch.compile.
at::Tensor mbconv_meta(const at::Tensor& input, const Maybe&, const Maybe&, const at::Tensor&,
                       const at::Tensor&, const Maybe&, const Maybe&, const Maybe&, const Maybe&,
                       const at::Tensor& project_weight, const at::Tensor&, const Maybe&,
                       const Maybe&, bool, const std::string&, const std::string&,
                       int64_t stride, int64_t, int64_t, int64_t, int64_t, bool,
                       const std::string&) {
  return at::empty_symint({input.sym_size(0), project_weight.sym_size(0),
                           (input.sym_size(2) + stride - 1) / stride,
                           (input.sym_size(3) + stride - 1) / stride},
                          input.options(), format_of(input));
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(autonl_mm, m) {
  m.def(
      "mbconv(Tensor x, Tensor? expand_weight, Tensor? expand_bias, Tensor depthwise_weight, "
      "Tensor depthwise_bias, Tensor? reduce_weight, Tensor? reduce_bias, Tensor? gate_weight, "
      "Tensor? gate_bias, Tensor project_weight, Tensor project_bias, Tensor? nl_weight, "
      "Tensor? nl_bias, bool identity, str activation, str se_activation, int stride, "
      "int dilation, int nl_channels, int nl_stride, int nl_dilation, bool nl_spatial, "
      "str nl_normalize) "
      "-> Tensor");
}
TORCH_LIBRARY_IMPL(autonl_mm, CPU, m) { m.impl("mbconv", &mbconv); }
TORCH_LIBRARY_IMPL(autonl_mm, Meta, m) { m.impl("mbconv", &mbconv_meta); }

}  // namespace autonl_mm
