// The two products of a low-rank delta. Each number has a sum of its own, whose order depends on
// neither the rows beside it nor on how many are computed together.
#include "low_rank.h"

#include <algorithm>

#include "linear.h"
#include "simd.h"

namespace jl {

namespace {

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
    vec sum[R][2];
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) sum[r][0] = sum[r][1] = fill(0);
    for (int64_t j = 0; j < rank; ++j, panel += PANEL, inner += lanes) {
        const vec low = load(panel), high = load(panel + LANES);
#pragma GCC unroll 8
        for (int r = 0; r < R; ++r) {
            const vec number = fill(inner[r]);
            sum[r][0] = fused(number, low, sum[r][0]);
            sum[r][1] = fused(number, high, sum[r][1]);
        }
    }
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 2
        for (int v = 0; v < 2; ++v) {
            float* at = y + r * y_stride + LANES * v;
            const int64_t columns = left - LANES * v;
            store_some(at, columns, plus(load_some(at, columns), sum[r][v]));
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
            add.template operator()<R == 1 ? 8 : 4>();
            add.template operator()<1>();
        }
    };
    some.template operator()<4>();
    some.template operator()<1>();
}

void add_outer(
    const Delta& delta, const float* inner, int64_t lanes, int64_t rows, float* y,
    int64_t y_stride, int64_t from, int64_t to) {
    for (int64_t r = 0; r < rows; r += 8)  // a few rows of y at a time are streams of memory
        for (int64_t o = from; o < to; o += PANEL)
            outer_rest<8>(
                std::min<int64_t>(8, rows - r), inner + r, lanes, delta.rank,
                delta.b + o * delta.rank, y + r * y_stride + o, y_stride, to - o);
}

}  // namespace jl
