// The backbone's products, x [rows, d_in] times W [d_out, d_in] transposed.
//
// Weights lie in panels of 32 outputs: [panel][d_in][32] float, or [panel][d_in / 4][32][4] uint8,
// so that a panel is one stream of memory. Rows are taken in blocks of up to 14, whose numbers are
// first packed side by side: 14 rows times two vectors of outputs fill the registers.
#include "linear.h"

#include <cmath>
#include <cstring>

#include "run.h"
#include "simd.h"

namespace jl {

namespace {

// How n rows are cut: blocks of nearly one size, so that none is left with a row or two.
struct RowBlocks {
    int64_t size, count;
    explicit RowBlocks(int64_t n) {
        const int64_t fewest = (n + MAX_ROWS - 1) / MAX_ROWS;
        size = (n + fewest - 1) / fewest;
        count = (n + size - 1) / size;
    }
    int64_t rows(int64_t block, int64_t n) const {
        return block + 1 < count ? size : n - block * size;
    }
};

struct Output {
    float* y;       // the block's first row, the panel's first column
    int64_t stride; // floats from row to row
    __mmask16 mask[2];
    bool adds;

    void store(int r, int v, vec value) const {
        float* at = y + r * stride + 16 * v;
        if (adds) value = _mm512_add_ps(_mm512_maskz_loadu_ps(mask[v], at), value);
        _mm512_mask_storeu_ps(at, mask[v], value);
    }
};

template <int R>
void product_f32(const float* x, const float* w, int64_t depth, const Output& out) {
    vec sum[R][2];
#pragma GCC unroll 14
    for (int r = 0; r < R; ++r) sum[r][0] = sum[r][1] = _mm512_setzero_ps();
    for (int64_t k = 0; k < depth; ++k, w += PANEL, x += R) {
        const vec w0 = _mm512_load_ps(w), w1 = _mm512_load_ps(w + 16);
#pragma GCC unroll 14
        for (int r = 0; r < R; ++r) {
            const vec scalar = _mm512_set1_ps(x[r]);
            sum[r][0] = _mm512_fmadd_ps(scalar, w0, sum[r][0]);
            sum[r][1] = _mm512_fmadd_ps(scalar, w1, sum[r][1]);
        }
    }
#pragma GCC unroll 14
    for (int r = 0; r < R; ++r) {
        out.store(r, 0, sum[r][0]);
        out.store(r, 1, sum[r][1]);
    }
}

// What a row was quantised with: value = scale * (q), sum over the row's q times 128.
struct RowScale {
    float scale;
    int32_t offset;
};

// Sums typed as what they hold: GCC keeps an array of __m512i in memory, not in registers.
using ints = int __attribute__((vector_size(64)));

template <int R>
void product_i8(
    const int32_t* x, const uint8_t* w, int64_t quads, const RowScale* scales,
    const float* w_scale, const Output& out) {
    ints sum[R][2];
#pragma GCC unroll 14
    for (int r = 0; r < R; ++r) sum[r][0] = sum[r][1] = ints{};
    for (int64_t k = 0; k < quads; ++k, w += 4 * PANEL, x += R) {
        const __m512i w0 = _mm512_load_si512(w), w1 = _mm512_load_si512(w + 64);
#pragma GCC unroll 14
        for (int r = 0; r < R; ++r) {
            const __m512i four = _mm512_set1_epi32(x[r]);
            sum[r][0] = (ints)_mm512_dpbusd_epi32((__m512i)sum[r][0], w0, four);
            sum[r][1] = (ints)_mm512_dpbusd_epi32((__m512i)sum[r][1], w1, four);
        }
    }
#pragma GCC unroll 14
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 2
        for (int v = 0; v < 2; ++v) {
            const __m512i exact =
                _mm512_sub_epi32((__m512i)sum[r][v], _mm512_set1_epi32(scales[r].offset));
            const vec scaled =
                _mm512_mul_ps(_mm512_cvtepi32_ps(exact), _mm512_set1_ps(scales[r].scale));
            out.store(r, v, _mm512_mul_ps(scaled, _mm512_load_ps(w_scale + 16 * v)));
        }
}

template <int R>
void product_of(int64_t rows, auto&& call) {
    if (rows == R) return call.template operator()<R>();
    if constexpr (R > 1) product_of<R - 1>(rows, call);
}

// Symmetric int8 of one row, four neighbours an int32, written with a stride of `step` int32.
RowScale quantise_row(const float* x, int64_t d, int32_t* q, int64_t step) {
    vec largest = _mm512_setzero_ps();
    __mmask16 unordered = 0;
    for (int64_t j = 0; j < d; j += 16) {
        const vec value = _mm512_maskz_loadu_ps(tail_mask(d - j), x + j);
        unordered |= _mm512_cmp_ps_mask(value, value, _CMP_UNORD_Q);
        largest = _mm512_max_ps(largest, _mm512_abs_ps(value));
    }
    float scale = std::fmax(_mm512_reduce_max_ps(largest), 1e-12f) / 127.0f;
    if (unordered != 0) scale = NAN;  // a broken row must not look sound
    __m512i total = _mm512_setzero_si512();
    alignas(16) int32_t packed[4];
    for (int64_t j = 0; j < d; j += 16) {
        const vec value = _mm512_maskz_loadu_ps(tail_mask(d - j), x + j);
        const __m512i whole = _mm512_cvtps_epi32(_mm512_div_ps(value, _mm512_set1_ps(scale)));
        const __m128i bytes = _mm512_cvtsepi32_epi8(whole);
        total = _mm512_add_epi32(total, _mm512_cvtepi8_epi32(bytes));
        _mm_store_si128(reinterpret_cast<__m128i*>(packed), bytes);
        for (int64_t i = 0; i < 4 && j + 4 * i < d; ++i) q[(j / 4 + i) * step] = packed[i];
    }
    return {scale, 128 * _mm512_reduce_add_epi32(total)};
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
            const Output out{
                y, stride, {tail_mask(d_out - column), tail_mask(d_out - column - 16)},
                op.n[3] != 0};
            compute(b, panel, out);
        }
    });
}

}  // namespace

// p: x [rows, d_in], panels, y [rows, stride], scratch [rows * d_in] float.
// n: d_in, d_out, stride, whether y is added to.
void linear_f32(const Op& op, const Team& team) {
    const int64_t d_in = op.n[0], n = team.step.rows;
    const RowBlocks blocks(n);
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
        product_of<MAX_ROWS>(
            blocks.rows(b, n), [&]<int R>() { product_f32<R>(rows, w, d_in, out); });
    });
}

// p: x [rows, d_in], panels, y [rows, stride], scratch [rows * quads] int32, scales [d_out] of the
//    weights padded to whole panels, row scales [rows] RowScale.
// n: d_in, d_out, stride, whether y is added to.
void linear_i8(const Op& op, const Team& team) {
    const int64_t d_in = op.n[0], n = team.step.rows, quads = (d_in + 3) / 4;
    const RowBlocks blocks(n);
    const float* x = static_cast<const float*>(op.p[0]);
    int32_t* packed = static_cast<int32_t*>(op.p[3]);
    RowScale* scales = static_cast<RowScale*>(op.p[5]);
    team.share(0, n, [&](int64_t i) {
        const int64_t b = i / blocks.size, first = b * blocks.size;
        int32_t* to = packed + first * quads + (i - first);
        scales[i] = quantise_row(x + i * d_in, d_in, to, blocks.rows(b, n));
    });
    each_block(op, team, blocks, [&](int64_t b, int64_t panel, const Output& out) {
        const int64_t first = b * blocks.size;
        const uint8_t* w = static_cast<const uint8_t*>(op.p[1]) + panel * quads * 4 * PANEL;
        const float* w_scale = static_cast<const float*>(op.p[4]) + panel * PANEL;
        product_of<MAX_ROWS>(blocks.rows(b, n), [&]<int R>() {
            product_i8<R>(packed + first * quads, w, quads, scales + first, w_scale, out);
        });
    });
}

}  // namespace jl
