// Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
//
// Products of matrices in registers, for the operators beside this file.
#pragma once
#include <cstdint>

// One binary for every processor: a function marked so is compiled for each of
// these, with all that it calls.
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

// R rows and B * LANES columns of a product. Sums begin with start(r, j), and
// store(r, j, sum) takes them, for row r and vector j.
template <int R, int B, class Start, class Store>
INLINE void tile(Left a, Right b, int64_t depth, Start start, Store store) {
  Vec sum[R][B];
  for (int r = 0; r < R; r++)
    for (int j = 0; j < B; j++) sum[r][j] = start(r, j);
  for (int64_t i = 0; i < depth; i++) {
    Vec right[B];
    for (int j = 0; j < B; j++) right[j] = at_vec(b.data + i * b.row + j * LANES);
    for (int r = 0; r < R; r++) {
      const float left = a.data[r * a.row + i * a.col];
      for (int j = 0; j < B; j++) sum[r][j] += left * right[j];
    }
  }
  for (int r = 0; r < R; r++)
    for (int j = 0; j < B; j++) store(r, j, sum[r][j]);
}

// f.operator()<R>(first) for panels of nearly as many rows each, at most MOST.
// (Seven are better done as three and four than as six and one, which would wait
// for its own sums.)
template <int MOST, class F>
INLINE void in_panels(int64_t rows, F f) {
  static_assert(MOST <= 6);
  const int64_t panels = (rows + MOST - 1) / MOST;
  for (int64_t p = 0; p < panels; p++) {
    const int64_t first = p * rows / panels;
    switch ((p + 1) * rows / panels - first) {
      case 6: if constexpr (MOST >= 6) f.template operator()<6>(first); break;
      case 5: if constexpr (MOST >= 5) f.template operator()<5>(first); break;
      case 4: f.template operator()<4>(first); break;
      case 3: f.template operator()<3>(first); break;
      case 2: f.template operator()<2>(first); break;
      case 1: f.template operator()<1>(first); break;
    }
  }
}

// Vectors of the next tile of so many columns: three, where that leaves none of one.
inline int vectors_of(int64_t cols) {
  const int64_t vectors = cols / LANES;
  return vectors == 4 ? 2 : vectors < 3 ? vectors : 3;
}

// Rows of a tile of B vectors: what 16 registers hold.
template <int B>
constexpr int ROWS = B == 3 ? 4 : 6;

}  // namespace autonl_mm
