// Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
#pragma once
// not ATen.h, which takes the compiler 7 seconds longer
#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>

#include <algorithm>
#include <string>
#include <vector>

namespace autonl_mm {

// LightNL in deploy form for feature maps of one size.
struct LightNL {
  // `sizes` is (N, C, H, W). Throws if an argument does not fit it.
  LightNL(at::IntArrayRef sizes, const at::Tensor& weight, const at::Tensor& bias, int64_t k,
          int64_t stride, int64_t dilation, bool spatial, const std::string& normalize);

  // x + depthwise3x3(light_nl(x)) + bias + residual of one image, (H, W, C).
  // `residual` may be null. Uses all threads, or only the calling one when it is
  // called inside of a parallel region.
  void operator()(const float* x, const float* residual, float* out) const;

 private:
  // The two factors of y = x_c x_sc^T x_s = (x_c left) right.
  struct Factors {
    std::vector<float> left;     // (k, columns): the context, or the samples x_sc^T
    int64_t columns;             // C, or hw rounded up to whole vectors
    std::vector<float> samples;  // x_s, (hw, C), where it is not x itself
    const float* right;          // x_s in the spatial order, else null
  };

  void add_context(const float* x, int64_t first, int64_t last, float* context) const;
  Factors context_of(const float* x) const;
  Factors samples_of(const float* x) const;
  void row_of(const float* x, const Factors& factors, float* affinity, float* y) const;
  float scale_of_rows(const float* x, const Factors& factors, float* y) const;

  const int64_t C, H, W, k, stride, dilation, h, w;
  const bool spatial, rms;
  const at::Tensor taps, shift;  // (9, C), (C)
};

// Calls f(first, last) for ranges of images that together are all images. With
// fewer images than threads: one image at a time, so that all threads share it.
// Otherwise each thread takes its own images, at most `together` per call.
template <class F>
void for_images(int64_t images, int64_t together, F f) {
  if (images < at::get_num_threads()) {
    for (int64_t n = 0; n < images; n++) f(n, n + 1);
  } else {
    at::parallel_for(0, images, 1, [&](int64_t begin, int64_t end) {
      for (int64_t n = begin; n < end; n += together) f(n, std::min(n + together, end));
    });
  }
}

// How many parts to split the work on one image into, so that no thread is idle.
inline int64_t parts_of(int64_t rows) {
  return at::in_parallel_region() ? 1 : std::min<int64_t>(at::get_num_threads(), rows);
}

// (outputs, ...) to (..., outputs). Copies nothing if the memory has this layout
// already, which pack_weights in fused.py sees to.
inline at::Tensor outputs_last(const at::Tensor& weight) {
  return weight.flatten(1).t().contiguous();
}

// Memory format of the result: channels_last if the input is, else contiguous.
inline at::MemoryFormat format_of(const at::Tensor& input) {
  return input.is_contiguous(at::MemoryFormat::ChannelsLast) ? at::MemoryFormat::ChannelsLast
                                                             : at::MemoryFormat::Contiguous;
}

}  // namespace autonl_mm
