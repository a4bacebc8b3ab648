// Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
//
// An inverted residual block in deploy form as one operator on a CPU, float32:
// 1x1 expand, depthwise, squeeze-excite, 1x1 project, LightNL, identity add. The
// expanded map, most of what the block would read and write, is made some channels
// of some rows at a time, is convolved depthwise while it is in the cache, and
// never exists as a whole.
//
// Maps are channels_last: a row a position, C numbers each.
#include <torch/library.h>

#include <algorithm>
#include <array>
#include <optional>
#include <string>
#include <vector>

#include "light_nl.h"
#include "tile.h"

namespace autonl_mm {
namespace {

enum Activation { NONE, SILU, HARDSWISH };

typedef int32_t Ints __attribute__((vector_size(4 * LANES), aligned(4)));

// 1 + exp(-x), where |x| > 60 counts as 60: x / (1 + exp(-x)) is x or less than
// 1e-26 x from there. To 2e-7, and 1e-6 at -60: 2^n is made of the bits of a sum,
// 2^f, for f in [-0.5, 0.5], is the polynomial of least relative error, 7.5e-8.
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

template <int ACT>
INLINE Vec activate(Vec x) {
  if (ACT == SILU) return x / one_plus_exp(x);
  if (ACT == HARDSWISH) {
    Vec gate = x + 3.f;
    gate = gate < 0.f ? Vec{} : gate;
    gate = gate > 6.f ? Vec{} + 6.f : gate;
    return x * gate * (1.f / 6.f);
  }
  return x;
}

// Channels that are worked on together: as many vectors as a tile has.
struct Block {
  int64_t first;
  int vectors;
  int64_t width() const { return vectors * LANES; }
};
constexpr int64_t MOST = 3 * LANES;

// f.operator()<vectors, activation>()
template <class F>
INLINE void with_constants(int vectors, Activation act, F f) {
  const auto with_act = [&]<int B>() {
    switch (act) {
      case NONE: return f.template operator()<B, NONE>();
      case SILU: return f.template operator()<B, SILU>();
      case HARDSWISH: return f.template operator()<B, HARDSWISH>();
    }
  };
  switch (vectors) {
    case 1: return with_act.template operator()<1>();
    case 2: return with_act.template operator()<2>();
    case 3: return with_act.template operator()<3>();
  }
}

// A block of channels of a 1x1 convolution of `rows` positions with `depth` channels:
// act(a panel + bias) + residual. `panel` is (depth, width). Position i goes to
// out + place[i], or, without places, to out + i * out_row.
FOR_EACH_TARGET
void convolve_1x1(const float* a, int64_t rows, int64_t depth, const float* panel,
                  const float* bias, int vectors, Activation act, const float* residual,
                  float* out, int64_t out_row, const int32_t* place) {
  with_constants(vectors, act, [&]<int B, Activation ACT>() {
    in_panels<ROWS<B>>(rows, [&]<int R>(int64_t first) {
      tile<R, B>({a + first * depth, depth, 1}, {panel, B * LANES}, depth,
                 [&](int, int j) { return at_vec(bias + j * LANES); },
                 [&](int r, int j, Vec sum) {
                   const int64_t i = first + r;
                   const int64_t at = (place ? place[i] : i * out_row) + j * LANES;
                   sum = activate<ACT>(sum);
                   at_vec(out + at) = residual ? sum + at_vec(residual + at) : sum;
                 });
    });
  });
}

// Some channels of positions that are `channels` apart, the same way.
FOR_EACH_TARGET
void copy_block(const float* x, int64_t rows, int64_t channels, int vectors, float* out,
                const int32_t* place) {
  for (int64_t i = 0; i < rows; i++)
    for (int j = 0; j < vectors; j++)
      at_vec(out + place[i] + j * LANES) = at_vec(x + i * channels + j * LANES);
}

// Some rows of a block of channels of a map with zeros around it, (rows, cols, width).
struct Padded {
  Padded(int64_t most_rows, int64_t map_cols, int64_t pad)
      : cols(map_cols + 2 * pad), data(most_rows * cols * MOST), map_cols(map_cols), pad(pad) {}

  // Of which the rows from `first` to `last` are the map's.
  void reshape(int64_t rows, int64_t first, int64_t last, int64_t width) {
    if (shape == std::array{rows, first, last, width}) return;  // zeros are where they were
    shape = {rows, first, last, width};
    std::fill_n(data.begin(), rows * cols * width, 0.f);
    place.clear();
    for (int64_t i = first; i < last; i++)
      for (int64_t j = pad; j < pad + map_cols; j++) place.push_back((i * cols + j) * width);
  }

  const int64_t cols;
  std::vector<float> data;
  std::vector<int32_t> place;  // of each position of the map

 private:
  const int64_t map_cols, pad;
  std::array<int64_t, 4> shape{};
};

struct Depthwise {
  const float *taps, *bias;  // (kernel * kernel, channels), (channels)
  int64_t channels, kernel, stride, dilation;
};

// A block of channels of a depthwise convolution: act(conv + bias), `rows` x `cols`
// positions `conv.channels` apart, and their sums. x is (..., x_cols, width) with
// the padding.
FOR_EACH_TARGET
void convolve_depthwise(const float* x, int64_t x_cols, const Depthwise& conv, int vectors,
                        Activation act, int64_t rows, int64_t cols, float* out, float* sums) {
  with_constants(vectors, act, [&]<int B, Activation ACT>() {
    constexpr int64_t width = B * LANES;
    Vec total[B] = {};
    for (int64_t row = 0; row < rows; row++)
      in_panels<4>(cols, [&]<int R>(int64_t first) {
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
            const Vec y = activate<ACT>(sum[r][j]);
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
    const Vec hidden = act == SILU ? activate<SILU>(all) : activate<HARDSWISH>(all);
    for (int64_t c = 0; c < se.channels; c += LANES)
      at_vec(gates + c) += hidden * at_vec(se.expand + h * se.channels + c);
  }
  for (int64_t c = 0; c < se.channels; c += LANES)
    at_vec(gates + c) = 1.f / one_plus_exp(at_vec(gates + c));
}

// rows of x times gates
FOR_EACH_TARGET
void multiply(float* x, const float* gates, int64_t channels) {
  for (int64_t c = 0; c < channels; c += LANES) at_vec(x + c) *= at_vec(gates + c);
}

// A block's columns of a matrix (depth, channels).
void pack(const float* matrix, int64_t depth, int64_t channels, const Block& block,
          float* panel) {
  const float* row = matrix + block.first;
  for (int64_t i = 0; i < depth; i++, row += channels)
    for (int64_t j = 0; j < block.width(); j += LANES) {
      __builtin_prefetch(row + j + 24 * channels);  // with one picture this waits for memory
      at_vec(panel + i * block.width() + j) = at_vec(row + j);
    }
}

// Blocks of three vectors where that leaves none of one.
std::vector<Block> blocks_of(int64_t channels) {
  std::vector<Block> blocks;
  for (int64_t first = 0; first < channels; first += blocks.back().width()) {
    const int64_t left = (channels - first) / LANES;
    blocks.push_back({first, left == 4 ? 2 : int(std::min<int64_t>(left, 3))});
  }
  return blocks;
}

using Maybe = c10::optional<at::Tensor>;

// What is checked of a convolution's parameters, and its bias.
void check(const char* name, const Maybe& weight, const Maybe& bias, at::IntArrayRef sizes) {
  TORCH_CHECK(weight->sizes() == sizes && weight->scalar_type() == at::kFloat &&
                  bias && bias->sizes() == at::IntArrayRef({sizes[0]}) &&
                  bias->scalar_type() == at::kFloat,
              "mbconv: expected a float32 ", name, " weight ", sizes, " with a bias, got ",
              weight->scalar_type(), " ", weight->sizes());
}

int64_t conv_size(int64_t size, int64_t stride) { return (size + stride - 1) / stride; }

at::Tensor mbconv(const at::Tensor& input, const Maybe& expand_weight, const Maybe& expand_bias,
                  const at::Tensor& depthwise_weight, const at::Tensor& depthwise_bias,
                  const Maybe& reduce_weight, const Maybe& reduce_bias,
                  const Maybe& gate_weight, const Maybe& gate_bias,
                  const at::Tensor& project_weight, const at::Tensor& project_bias,
                  const Maybe& nl_weight, const Maybe& nl_bias, bool identity,
                  const std::string& activation, int64_t stride, int64_t dilation,
                  int64_t nl_channels, int64_t nl_stride, int64_t nl_dilation, bool nl_spatial) {
  TORCH_CHECK(input.dim() == 4 && input.scalar_type() == at::kFloat,
              "mbconv: expected a float32 map (N, C, H, W), got ", input.scalar_type(), " ",
              input.sizes());
  TORCH_CHECK(depthwise_weight.dim() == 4 && project_weight.dim() == 4,
              "mbconv: expected weights of four dimensions");
  TORCH_CHECK(activation == "silu" || activation == "hardswish",
              "mbconv: expected an activation silu or hardswish, got ", activation);
  TORCH_CHECK(stride > 0 && dilation > 0,
              "mbconv: expected positive stride and dilation, got ", stride, ", ", dilation);
  const Activation act = activation == "silu" ? SILU : HARDSWISH;
  const int64_t N = input.size(0), C = input.size(1), H = input.size(2), W = input.size(3);
  const int64_t M = depthwise_weight.size(0), K = depthwise_weight.size(3);
  const int64_t O = project_weight.size(0);
  TORCH_CHECK(C % LANES == 0 && M % LANES == 0 && O % LANES == 0,
              "mbconv: expected channels that are multiples of ", LANES, ", got ", C, ", ", M,
              " and ", O);
  TORCH_CHECK(K % 2, "mbconv: expected an odd kernel size, got ", K);
  if (expand_weight) check("expand", expand_weight, expand_bias, {M, C, 1, 1});
  check("depthwise", depthwise_weight, depthwise_bias, {expand_weight ? M : C, 1, K, K});
  check("project", project_weight, project_bias, {O, M, 1, 1});
  const int64_t oh = conv_size(H, stride), ow = conv_size(W, stride);
  TORCH_CHECK(!identity || (C == O && stride == 1),
              "mbconv: expected stride 1 and as many channels out as in to add the identity");

  const auto map = input.contiguous(at::MemoryFormat::ChannelsLast);
  auto result =
      at::empty({N, O, oh, ow}, map.options(), at::MemoryFormat::ChannelsLast);
  at::Tensor expand_matrix, expand_shift, reduce_matrix, reduce_shift, gate_matrix, gate_shift;
  if (expand_weight) {
    expand_matrix = outputs_last(*expand_weight);
    expand_shift = expand_bias->contiguous();
  }
  std::optional<SqueezeExcite> se;
  if (reduce_weight) {
    const int64_t hidden = reduce_weight->size(0);
    check("reduce", reduce_weight, reduce_bias, {hidden, M, 1, 1});
    TORCH_CHECK(gate_weight, "mbconv: expected weights of both of squeeze-excite's convolutions");
    check("gate", gate_weight, gate_bias, {M, hidden, 1, 1});
    reduce_matrix = reduce_weight->contiguous();
    reduce_shift = reduce_bias->contiguous();
    gate_matrix = outputs_last(*gate_weight);
    gate_shift = gate_bias->contiguous();
    se = {reduce_matrix.data_ptr<float>(), reduce_shift.data_ptr<float>(),
          gate_matrix.data_ptr<float>(), gate_shift.data_ptr<float>(), M, hidden};
  }
  std::optional<LightNL> light_nl;
  if (nl_weight) {
    TORCH_CHECK(nl_bias, "mbconv: expected a bias of LightNL");
    light_nl.emplace(result.sizes(), *nl_weight, *nl_bias, nl_channels, nl_stride, nl_dilation,
                     nl_spatial);
  }
  if (!result.numel()) return result;

  const auto taps = outputs_last(depthwise_weight), shift = depthwise_bias.contiguous();
  const Depthwise depthwise = {taps.data_ptr<float>(), shift.data_ptr<float>(), M, K, stride,
                               dilation};
  const auto project_matrix = outputs_last(project_weight);
  const auto project_shift = project_bias.contiguous();
  const auto blocks = blocks_of(M), out_blocks = blocks_of(O);
  const int64_t n_blocks = blocks.size(), n_out_blocks = out_blocks.size();

  // Rows of the result are made in bands, so that the expanded rows that they need
  // stay in the cache; those that two bands need are computed twice.
  const int64_t pad = dilation * (K / 2);
  const int64_t cache = 512 * 1024 / sizeof(float);
  const int64_t fit = (cache / ((W + 2 * pad) * MOST) - 2 * pad - 1) / stride + 1;
  const int64_t band = std::clamp<int64_t>(fit, 1, oh);
  const int64_t most_rows = (band - 1) * stride + 2 * pad + 1;

  const int64_t in_size = H * W * C, positions = oh * ow;
  const float* const input_maps = map.data_ptr<float>();
  float* const output_maps = result.data_ptr<float>();

  // Rows first to last of the depthwise convolution of a block of channels of a
  // picture, into (rows, ow, M), and their sums. The panel is the expand weights'.
  const auto expand_and_convolve = [&](const float* x, const Block& block, int64_t first,
                                       int64_t last, const float* panel, Padded& padded,
                                       float* to, float* sums) {
    const int64_t top = first * stride - pad, bottom = (last - 1) * stride + pad + 1;
    const int64_t from = std::max<int64_t>(top, 0), until = std::min(bottom, H);
    padded.reshape(bottom - top, from - top, until - top, block.width());
    if (expand_weight)
      convolve_1x1(x + from * W * C, (until - from) * W, C, panel,
                   expand_shift.data_ptr<float>() + block.first, block.vectors, act, nullptr,
                   padded.data.data(), 0, padded.place.data());
    else
      copy_block(x + from * W * C + block.first, (until - from) * W, C, block.vectors,
                 padded.data.data(), padded.place.data());
    Depthwise part = depthwise;
    part.taps += block.first;
    part.bias += block.first;
    convolve_depthwise(padded.data.data(), padded.cols, part, block.vectors, act, last - first, ow,
                       to + block.first, sums + block.first);
  };
  const auto pack_expand = [&](const Block& block, std::vector<float>& panel) {
    if (expand_weight)
      pack(expand_matrix.data_ptr<float>(), C, M, block, panel.data());
  };
  // A block of channels of positions first to last; `middle` is that of the first.
  const auto project = [&](const float* middle, const Block& block, int64_t first, int64_t last,
                           const float* panel, const float* residual, float* to) {
    const int64_t at = first * O + block.first;
    convolve_1x1(middle, last - first, M, panel, project_shift.data_ptr<float>() + block.first,
                 block.vectors, NONE, residual ? residual + at : nullptr, to + at, O, nullptr);
  };
  const auto pack_project = [&](const Block& block, std::vector<float>& panel) {
    pack(project_matrix.data_ptr<float>(), M, O, block, panel.data());
  };

  const auto without_se = [&](const float* x, const float* residual, float* projected) {
    // A band is projected while it is in the cache.
    const int64_t bands = std::max((oh + band - 1) / band, parts_of(oh));
    at::parallel_for(0, bands, 1, [&](int64_t begin, int64_t end) {
      Padded padded(most_rows, W, pad);
      std::vector<float> panel(std::max(C, M) * MOST), middle(band * ow * M), sums(M);
      for (int64_t b = begin; b < end; b++) {
        const int64_t first = b * oh / bands, last = (b + 1) * oh / bands;
        for (const Block& block : blocks) {
          pack_expand(block, panel);
          expand_and_convolve(x, block, first, last, panel.data(), padded, middle.data(),
                              sums.data());
        }
        for (const Block& block : out_blocks) {
          pack_project(block, panel);
          project(middle.data(), block, first * ow, last * ow, panel.data(), residual, projected);
        }
      }
    });
  };
  // `pictures` maps one after the other
  const auto with_se = [&](int64_t pictures, const float* x, const float* residual,
                           float* projected) {
    const int64_t bands = (oh + band - 1) / band, mid_size = positions * M;
    const auto memory = at::empty({pictures * mid_size}, map.options());
    float* const middle = memory.data_ptr<float>();
    std::vector<float> sums(pictures * bands * M), gates(pictures * M);
    at::parallel_for(0, bands * n_blocks, 1, [&](int64_t begin, int64_t end) {
      Padded padded(most_rows, W, pad);
      std::vector<float> panel(C * MOST);
      for (int64_t item = begin; item < end; item++) {
        const int64_t b = item / n_blocks;
        const int64_t first = b * oh / bands, last = (b + 1) * oh / bands;
        const Block& block = blocks[item % n_blocks];
        pack_expand(block, panel);
        for (int64_t n = 0; n < pictures; n++)
          expand_and_convolve(x + n * in_size, block, first, last, panel.data(), padded,
                              middle + n * mid_size + first * ow * M,
                              sums.data() + (n * bands + b) * M);
      }
    });
    for (int64_t n = 0; n < pictures; n++) {
      std::vector<float> mean(M);
      for (int64_t b = 0; b < bands; b++)
        for (int64_t c = 0; c < M; c++) mean[c] += sums[(n * bands + b) * M + c] / positions;
      squeeze_excite(mean.data(), *se, act, gates.data() + n * M);
    }
    // Few positions are split by channels, so that weights are read but once.
    const int64_t parts = positions < 48 * at::get_num_threads() ? 1 : parts_of(positions);
    at::parallel_for(0, pictures * positions, 16, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; i++)
        multiply(middle + i * M, gates.data() + i / positions * M, M);
    });
    at::parallel_for(0, parts * n_out_blocks, 1, [&](int64_t begin, int64_t end) {
      std::vector<float> panel(M * MOST);
      for (int64_t item = begin; item < end; item++) {
        const int64_t part = item / n_out_blocks;
        const int64_t first = part * positions / parts, last = (part + 1) * positions / parts;
        const Block& block = out_blocks[item % n_out_blocks];
        pack_project(block, panel);
        for (int64_t n = 0; n < pictures; n++)
          project(middle + n * mid_size + first * M, block, first, last, panel.data(),
                  residual ? residual + n * positions * O : nullptr,
                  projected + n * positions * O);
      }
    });
  };

  // Pictures whose maps are small are worked on together, so that weights are read
  // from the cache.
  const int64_t together = se ? std::max<int64_t>(1, cache / (positions * M)) : 1;
  for_pictures(N, together, [&](int64_t first, int64_t last) {
    const float* const x = input_maps + first * in_size;
    float* const out = output_maps + first * positions * O;
    const float* const residual = identity ? x : nullptr;
    std::vector<float> local(light_nl ? (last - first) * positions * O : 0);
    float* const projected = light_nl ? local.data() : out;
    const float* const added = light_nl ? nullptr : residual;
    if (se)
      with_se(last - first, x, added, projected);
    else
      without_se(x, added, projected);
    if (light_nl)
      for (int64_t n = 0; n < last - first; n++) {
        const int64_t at = n * positions * O;
        (*light_nl)(projected + at, residual ? residual + at : nullptr, out + at);
      }
  });
  return input.is_contiguous(at::MemoryFormat::ChannelsLast) ? result : result.contiguous();
}

// What the result looks like, for torch.compile.
at::Tensor mbconv_meta(const at::Tensor& input, const Maybe&, const Maybe&, const at::Tensor&,
                       const at::Tensor&, const Maybe&, const Maybe&, const Maybe&, const Maybe&,
                       const at::Tensor& project_weight, const at::Tensor&, const Maybe&,
                       const Maybe&, bool, const std::string&, int64_t stride, int64_t, int64_t,
                       int64_t, int64_t, bool) {
  const auto format = input.is_contiguous(at::MemoryFormat::ChannelsLast)
                          ? at::MemoryFormat::ChannelsLast
                          : at::MemoryFormat::Contiguous;
  return at::empty_symint({input.sym_size(0), project_weight.sym_size(0),
                           (input.sym_size(2) + stride - 1) / stride,
                           (input.sym_size(3) + stride - 1) / stride},
                          input.options(), format);
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(autonl_mm, m) {
  m.def(
      "mbconv(Tensor x, Tensor? expand_weight, Tensor? expand_bias, Tensor depthwise_weight, "
      "Tensor depthwise_bias, Tensor? reduce_weight, Tensor? reduce_bias, Tensor? gate_weight, "
      "Tensor? gate_bias, Tensor project_weight, Tensor project_bias, Tensor? nl_weight, "
      "Tensor? nl_bias, bool identity, str activation, int stride, int dilation, "
      "int nl_channels, int nl_stride, int nl_dilation, bool nl_spatial) -> Tensor");
}
TORCH_LIBRARY_IMPL(autonl_mm, CPU, m) { m.impl("mbconv", &mbconv); }
TORCH_LIBRARY_IMPL(autonl_mm, Meta, m) { m.impl("mbconv", &mbconv_meta); }

}  // namespace autonl_mm
