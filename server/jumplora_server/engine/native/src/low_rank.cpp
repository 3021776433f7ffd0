// The two products of a low-rank delta. Each number has a sum of its own, whose order depends on
// neither the rows beside it nor on how many are computed together.
#include "low_rank.h"

#include <algorithm>

#include "linear.h"
#include "simd.h"

namespace jl {

namespace {

// Tiles: rows times as many rows of A, a row times more of them, and rows times vectors of B.
constexpr int SIDE = VECTORS >= 32 ? 4 : 2;
constexpr int ALONE = VECTORS >= 32 ? 8 : 4;
constexpr int MOST = VECTORS >= 32 ? 8 : 6;

// R rows times K rows of A: each sum over whole vectors of both, whose lanes are added at its end.
template <int R, int K>
void dot_products(
    const float* x, int64_t d_in, const float* a, float* inner, int64_t lanes) {
    const int64_t stride = factor_stride(d_in);
    vec sum[R][K];
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
        for (int j = 0; j < K; ++j) sum[r][j] = fill(0);
    const auto add = [&](int64_t k, auto&& load_x) {
        vec numbers[K];
#pragma GCC unroll 8
        for (int j = 0; j < K; ++j) numbers[j] = load(a + j * stride + k);
#pragma GCC unroll 8
        for (int r = 0; r < R; ++r) {
            const vec own = load_x(x + r * d_in + k);
#pragma GCC unroll 8
            for (int j = 0; j < K; ++j) sum[r][j] = fused(own, numbers[j], sum[r][j]);
        }
    };
    int64_t k = 0;
    for (; k + LANES <= d_in; k += LANES) add(k, [](const float* from) { return load(from); });
    if (k < d_in) add(k, [&](const float* from) { return load_some(from, d_in - k); });
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
        for (int j = 0; j < K; ++j) inner[j * lanes + r] = sum_lanes(sum[r][j]);
}

// R rows through one panel of B, added to y: 32 outputs, of which `left` remain.
template <int R>
void outer_panel(
    const float* inner, int64_t lanes, int64_t rank, const float* panel, float* y,
    int64_t y_stride, int64_t left) {
    constexpr int WIDE = std::min(2, columns_of<R>());
    for (int64_t column = 0; column < PANEL; column += WIDE * LANES) {
        const float *b = panel + column, *number = inner;
        vec sum[R][WIDE];
#pragma GCC unroll 8
        for (int r = 0; r < R; ++r)
#pragma GCC unroll 2
            for (int v = 0; v < WIDE; ++v) sum[r][v] = fill(0);
        for (int64_t j = 0; j < rank; ++j, b += PANEL, number += lanes) {
            vec numbers[WIDE];
#pragma GCC unroll 2
            for (int v = 0; v < WIDE; ++v) numbers[v] = load(b + LANES * v);
#pragma GCC unroll 8
            for (int r = 0; r < R; ++r) {
                const vec own = fill(number[r]);
#pragma GCC unroll 2
                for (int v = 0; v < WIDE; ++v) sum[r][v] = fused(own, numbers[v], sum[r][v]);
            }
        }
#pragma GCC unroll 8
        for (int r = 0; r < R; ++r)
#pragma GCC unroll 2
            for (int v = 0; v < WIDE; ++v) {
                const int64_t at_column = column + LANES * v;
                float* at = y + r * y_stride + at_column;
                store_some(
                    at, left - at_column, plus(load_some(at, left - at_column), sum[r][v]));
            }
    }
}

template <int R>
void outer_rest(int64_t rows, auto&&... given) {
    if (rows == R) return outer_panel<R>(given...);
    if constexpr (R > 1) outer_rest<R - 1>(rows, given...);
}

}  // namespace

void multiply_inner(
    const Delta& delta, const float* x, int64_t d_in, int64_t rows, float* inner, int64_t lanes) {
    const int64_t stride = factor_stride(d_in);
    int64_t r = 0;
    const auto some = [&]<int R>() {
        for (; r + R <= rows; r += R) {
            int64_t j = 0;
            const auto add = [&]<int K>() {
                for (; j + K <= delta.rank; j += K)
                    dot_products<R, K>(
                        x + r * d_in, d_in, delta.a + j * stride, inner + j * lanes + r, lanes);
            };
            add.template operator()<R == 1 ? ALONE : SIDE>();
            add.template operator()<1>();
        }
    };
    some.template operator()<SIDE>();
    some.template operator()<1>();
}

void add_outer(
    const Delta& delta, const float* inner, int64_t lanes, int64_t rows, float* y,
    int64_t y_stride, int64_t from, int64_t to) {
    for (int64_t r = 0; r < rows; r += MOST)  // a few rows of y at a time are streams of memory
        for (int64_t o = from; o < to; o += PANEL)
            outer_rest<MOST>(
                std::min<int64_t>(MOST, rows - r), inner + r, lanes, delta.rank,
                delta.b + o * delta.rank, y + r * y_stride + o, y_stride, to - o);
}

}  // namespace jl
