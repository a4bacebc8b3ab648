// Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
//
// Matrix products in registers, for the operators in this folder.
#pragma once
#include <cstdint>

// One binary for every processor: a function with this mark is compiled once for
// each of these instruction sets. All that it calls must be inlined into it: code
// that is not is compiled for the default instruction set only, and that passes a
// Vec in memory, where a caller with AVX passes it in a register. `flatten` alone
// does not make sure of it, so mark functions with INLINE and lambdas with
// INLINE_LAMBDA, after their parameters.
#if defined(__x86_64__) && defined(__gnu_linux__)
#define FOR_EACH_TARGET \
  __attribute__((flatten, target_clones("fma", "default")))
#else
#define FOR_EACH_TARGET
#endif
#define INLINE inline __attribute__((always_inline))
#define INLINE_LAMBDA __attribute__((always_inline))

namespace autonl_mm {

constexpr int64_t LANES = 8;
typedef float Vec __attribute__((vector_size(4 * LANES), aligned(4)));

INLINE Vec& at_vec(float* p) { return *reinterpret_cast<Vec*>(p); }
INLINE const Vec& at_vec(const float* p) { return *reinterpret_cast<const Vec*>(p); }

// Left factor, (rows, depth). `row` and `col` are the strides of its dimensions,
// in elements.
struct Left {
  const float* data;
  int64_t row, col;
};

// Right factor, (depth, cols). `row` is the stride of its rows, in elements.
struct Right {
  const float* data;
  int64_t row;
};

// R rows and B * LANES columns of a product. The sum for row r and vector j starts
// from start(r, j) and is handed to store(r, j, sum).
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

// Calls f.operator()<R>(first) for panels of R rows, R at most MAX_ROWS and nearly
// the same for all. (Seven rows are done as three and four rather than six and one:
// one row alone would wait for its own sums.)
template <int MAX_ROWS, class F>
INLINE void in_panels(int64_t rows, F f) {
  static_assert(MAX_ROWS <= 6);
  const int64_t panels = (rows + MAX_ROWS - 1) / MAX_ROWS;
  for (int64_t p = 0; p < panels; p++) {
    const int64_t first = p * rows / panels;
    switch ((p + 1) * rows / panels - first) {
      case 6: if constexpr (MAX_ROWS >= 6) f.template operator()<6>(first); break;
      case 5: if constexpr (MAX_ROWS >= 5) f.template operator()<5>(first); break;
      case 4: f.template operator()<4>(first); break;
      case 3: f.template operator()<3>(first); break;
      case 2: f.template operator()<2>(first); break;
      case 1: f.template operator()<1>(first); break;
    }
  }
}

// How many vectors the next tile takes of the columns that are left: three, unless
// that leaves a single vector for the last tile.
inline int vectors_of(int64_t cols) {
  const int64_t vectors = cols / LANES;
  return vectors == 4 ? 2 : vectors < 3 ? vectors : 3;
}

// Rows of a tile that is B vectors wide: as many as 16 registers hold.
template <int B>
constexpr int ROWS = B == 3 ? 4 : 6;

}  // namespace autonl_mm
