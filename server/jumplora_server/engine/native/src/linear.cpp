// The backbone's products, x [rows, d_in] times W [d_out, d_in] transposed.
//
// Weights lie in panels of 32 outputs: [panel][d_in][32] float, or [panel][d_in / 4][32][4] uint8,
// so that a panel is one stream of memory. Rows are taken in blocks, whose numbers are first packed
// side by side: a block's rows times some vectors of outputs fill the registers.
#include "linear.h"

#include <cmath>
#include <cstring>

#include "run.h"
#include "simd.h"

namespace jl {

namespace {

// A tile: rows of a block at most, and vectors of outputs.
constexpr int VECS = VECTORS >= 32 ? 2 : 1;
constexpr int ROWS_F32 = (VECTORS - VECS) / VECS - 1;   // 14, or 6
constexpr int ROWS_I8 = (VECTORS - VECS * WEIGHT_VECTORS) / VECS - 1;

// How n rows are cut: blocks of nearly one size, so that none is left with a row or two.
struct RowBlocks {
    int64_t size, count;
    RowBlocks(int64_t n, int64_t most) {
        const int64_t fewest = (n + most - 1) / most;
        size = (n + fewest - 1) / fewest;
        count = (n + size - 1) / size;
    }
    int64_t rows(int64_t block, int64_t n) const {
        return block + 1 < count ? size : n - block * size;
    }
};

struct Output {
    float* y;        // the block's first row, the panel's first column
    int64_t stride;  // floats from row to row
    int64_t left;    // columns from the first one on
    bool adds;

    void store(int r, int64_t column, vec value) const {
        float* at = y + r * stride + column;
        if (adds) value = plus(load_some(at, left - column), value);
        store_some(at, left - column, value);
    }
};

template <int R>
void product_f32(const float* x, const float* panel, int64_t depth, const Output& out) {
    for (int64_t column = 0; column < PANEL; column += LANES * VECS) {
        const float *own = x, *w = panel + column;
        vec sum[R][VECS];
#pragma GCC unroll 14
        for (int r = 0; r < R; ++r)
#pragma GCC unroll 2
            for (int v = 0; v < VECS; ++v) sum[r][v] = fill(0);
        for (int64_t k = 0; k < depth; ++k, w += PANEL, own += R) {
            vec weights[VECS];
#pragma GCC unroll 2
            for (int v = 0; v < VECS; ++v) weights[v] = load(w + LANES * v);
#pragma GCC unroll 14
            for (int r = 0; r < R; ++r) {
                const vec scalar = fill(own[r]);
#pragma GCC unroll 2
                for (int v = 0; v < VECS; ++v) sum[r][v] = fused(scalar, weights[v], sum[r][v]);
            }
        }
#pragma GCC unroll 14
        for (int r = 0; r < R; ++r)
#pragma GCC unroll 2
            for (int v = 0; v < VECS; ++v) out.store(r, column + LANES * v, sum[r][v]);
    }
}

// What a row was quantised with: value = scale * (q), and what its sums have too much.
struct RowScale {
    float scale;
    int32_t offset;
};

template <int R>
void product_i8(
    const quad* x, const uint8_t* panel, int64_t quads, const RowScale* scales,
    const float* w_scale, const Output& out) {
    for (int64_t column = 0; column < PANEL; column += LANES * VECS) {
        const quad* own = x;
        const uint8_t* w = panel + 4 * column;
        ints sum[R][VECS];
#pragma GCC unroll 14
        for (int r = 0; r < R; ++r)
#pragma GCC unroll 2
            for (int v = 0; v < VECS; ++v) sum[r][v] = no_ints();
        for (int64_t k = 0; k < quads; ++k, w += 4 * PANEL, own += R) {
            bytes weights[VECS];
#pragma GCC unroll 2
            for (int v = 0; v < VECS; ++v) weights[v] = load_weights(w + 4 * LANES * v);
#pragma GCC unroll 14
            for (int r = 0; r < R; ++r)
#pragma GCC unroll 2
                for (int v = 0; v < VECS; ++v) sum[r][v] = dot(sum[r][v], weights[v], own[r]);
        }
#pragma GCC unroll 14
        for (int r = 0; r < R; ++r)
#pragma GCC unroll 2
            for (int v = 0; v < VECS; ++v) {
                const int64_t at = column + LANES * v;
                const vec exact = to_floats(minus(sum[r][v], scales[r].offset));
                out.store(r, at, times(times(exact, fill(scales[r].scale)), load(w_scale + at)));
            }
    }
}

template <int R>
void product_of(int64_t rows, auto&& call) {
    if (rows == R) return call.template operator()<R>();
    if constexpr (R > 1) product_of<R - 1>(rows, call);
}

// Symmetric int8 of one row, four neighbours a quad, written with a stride of `step` quads.
RowScale quantise_row(const float* x, int64_t d, quad* q, int64_t step) {
    vec largest = fill(0);
    lanes broken = 0;
    for (int64_t j = 0; j < d; j += LANES) {
        const vec value = load_some(x + j, d - j);
        broken |= unordered(value);
        largest = higher(largest, magnitude(value));
    }
    float scale = std::fmax(highest_lane(largest), 1e-12f) / 127.0f;
    if (broken != 0) scale = NAN;  // a broken row must not look sound
    ints total = no_ints();
    int32_t fours[4];
    for (int64_t j = 0; j < d; j += LANES) {
        total = plus(total, round_to_bytes(over(load_some(x + j, d - j), fill(scale)), fours));
        for (int64_t i = 0; i < 4 && j + 4 * i < d; ++i) q[(j / 4 + i) * step] = to_quad(fours[i]);
    }
    return {scale, WEIGHT_OFFSET * sum_lanes(total)};
}

// Pieces of work: panels times groups of row blocks, enough of them for every thread.
struct Pieces {
    int64_t panels, groups;
    Pieces(int64_t d_out, const RowBlocks& blocks, int threads) {
        panels = (d_out + PANEL - 1) / PANEL;
        groups = std::min<int64_t>(blocks.count, (4 * threads + panels - 1) / panels);
    }
};

template <typename Block>
void each_block(
    const Op& op, const Team& team, const RowBlocks& blocks, Block&& compute) {
    const int64_t d_out = op.n[1], stride = op.n[2];
    const Pieces pieces(d_out, blocks, team.threads);
    team.share(1, pieces.panels * pieces.groups, [&](int64_t i) {
        const int64_t group = i / pieces.panels, panel = i % pieces.panels;
        const int64_t column = panel * PANEL;
        const int64_t end = (group + 1) * blocks.count / pieces.groups;
        for (int64_t b = group * blocks.count / pieces.groups; b < end; ++b) {
            float* y = static_cast<float*>(op.p[2]) + b * blocks.size * stride + column;
            compute(b, panel, Output{y, stride, d_out - column, op.n[3] != 0});
        }
    });
}

}  // namespace

// p: x [rows, d_in], panels, y [rows, stride], scratch [rows * d_in] float.
// n: d_in, d_out, stride, whether y is added to.
void linear_f32(const Op& op, const Team& team) {
    const int64_t d_in = op.n[0], n = team.step.rows;
    const RowBlocks blocks(n, ROWS_F32);
    const float* x = static_cast<const float*>(op.p[0]);
    float* packed = static_cast<float*>(op.p[3]);
    team.share(0, blocks.count, [&](int64_t b) {
        const int64_t first = b * blocks.size, rows = blocks.rows(b, n);
        float* to = packed + first * d_in;
        for (int64_t r = 0; r < rows; ++r) {
            const float* from = x + (first + r) * d_in;
            for (int64_t k = 0; k < d_in; ++k) to[k * rows + r] = from[k];
        }
    });
    each_block(op, team, blocks, [&](int64_t b, int64_t panel, const Output& out) {
        const float* rows = packed + b * blocks.size * d_in;
        const float* w = static_cast<const float*>(op.p[1]) + panel * d_in * PANEL;
        product_of<ROWS_F32>(
            blocks.rows(b, n), [&]<int R>() { product_f32<R>(rows, w, d_in, out); });
    });
}

// p: x [rows, d_in], panels, y [rows, stride], scratch [rows * quads] quad, scales [d_out] of the
//    weights padded to whole panels, row scales [rows] RowScale.
// n: d_in, d_out, stride, whether y is added to.
void linear_i8(const Op& op, const Team& team) {
    const int64_t d_in = op.n[0], n = team.step.rows, quads = (d_in + 3) / 4;
    const RowBlocks blocks(n, ROWS_I8);
    const float* x = static_cast<const float*>(op.p[0]);
    quad* packed = static_cast<quad*>(op.p[3]);
    RowScale* scales = static_cast<RowScale*>(op.p[5]);
    team.share(0, n, [&](int64_t i) {
        const int64_t b = i / blocks.size, first = b * blocks.size;
        quad* to = packed + first * quads + (i - first);
        scales[i] = quantise_row(x + i * d_in, d_in, to, blocks.rows(b, n));
    });
    each_block(op, team, blocks, [&](int64_t b, int64_t panel, const Output& out) {
        const int64_t first = b * blocks.size;
        const uint8_t* w = static_cast<const uint8_t*>(op.p[1]) + panel * quads * 4 * PANEL;
        const float* w_scale = static_cast<const float*>(op.p[4]) + panel * PANEL;
        product_of<ROWS_I8>(blocks.rows(b, n), [&]<int R>() {
            product_i8<R>(packed + first * quads, w, quads, scales + first, w_scale, out);
        });
    });
}

}  // namespace jl
