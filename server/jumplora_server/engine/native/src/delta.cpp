// What adapters add: y += x D^T, for rows that each have a lineage of their own.
//
// A sparse D is compressed rows: 2 bytes a column, 2 or 4 bytes a value. For the few rows of a
// decode step each non-zero picks its number of x; for the many tokens of an encode x is transposed
// first, and each non-zero is one product with a whole vector of tokens.
// Which of the two runs depends on the phase alone.
#include <cstring>

#include "linear.h"
#include "run.h"
#include "simd.h"

namespace jl {

namespace {

vec load_values(const Delta& delta, int64_t at, __mmask16 mask) {
    if (delta.value_type == VALUE_F32)
        return _mm512_maskz_loadu_ps(mask, static_cast<const float*>(delta.values) + at);
    const __m256i half =
        _mm256_maskz_loadu_epi16(mask, static_cast<const uint16_t*>(delta.values) + at);
    if (delta.value_type == VALUE_F16) return _mm512_cvtph_ps(half);
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16));
}

// One row: y[o] += sum over the row o of D, for o in [from, to). Four sums take turns, so that one
// need not wait for the other. Loading x one number at a time beats the gather instruction, which
// takes more than twice as long here.
void add_sparse_row(const Delta& delta, const float* x, float* y, int64_t from, int64_t to) {
    alignas(64) float values[16];
    for (int64_t o = from; o < to; ++o) {
        const int64_t end = delta.offsets[o + 1];
        float sum[4] = {};
        for (int64_t j = delta.offsets[o]; j < end; j += 16) {
            const int64_t count = std::min<int64_t>(16, end - j);
            _mm512_store_ps(values, load_values(delta, j, tail_mask(count)));
            const uint16_t* columns = delta.columns + j;
            int64_t k = 0;
            for (; k + 4 <= count; k += 4)
                for (int i = 0; i < 4; ++i)
                    sum[i] = __builtin_fmaf(values[k + i], x[columns[k + i]], sum[i]);
            for (int i = 0; k < count; ++k, ++i)
                sum[i] = __builtin_fmaf(values[k], x[columns[k]], sum[i]);
        }
        y[o] += (sum[0] + sum[1]) + (sum[2] + sum[3]);
    }
}

// Rows x [rows, d_in] through one panel of a dense matrix, into y (32 columns, `masks` of them).
template <bool ADDS>
void dense_panel(
    const float* x, int64_t x_stride, int64_t rows, const float* panel, int64_t depth, float* y,
    int64_t y_stride, const __mmask16 (&masks)[2]) {
    const auto some = [&]<int R>(int64_t first) {
        vec c[R][2];
        small_product<R, 2>(x + first * x_stride, x_stride, panel, PANEL, depth, 0xFFFF, c);
#pragma GCC unroll 8
        for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
            for (int v = 0; v < 2; ++v) {
                float* at = y + (first + r) * y_stride + 16 * v;
                if (ADDS) c[r][v] = _mm512_add_ps(c[r][v], _mm512_maskz_loadu_ps(masks[v], at));
                _mm512_mask_storeu_ps(at, masks[v], c[r][v]);
            }
    };
    int64_t r = 0;
    for (; r + 8 <= rows; r += 8) some.template operator()<8>(r);
    for (; r < rows; ++r) some.template operator()<1>(r);
}

void add_dense(
    const float* panels, const float* x, int64_t x_stride, int64_t depth, int64_t rows, float* y,
    int64_t y_stride, int64_t from, int64_t to) {
    for (int64_t o = from; o < to; o += PANEL) {
        const __mmask16 masks[2] = {tail_mask(to - o), tail_mask(to - o - 16)};
        dense_panel<true>(
            x, x_stride, rows, panels + o * depth, depth, y + o, y_stride, masks);
    }
}

void add_low_rank(
    const Team& team, const Delta& delta, const float* x, int64_t x_stride, int64_t d_in, int64_t rows, float* y,
    int64_t y_stride, int64_t from, int64_t to) {
    const int64_t width = (delta.rank + PANEL - 1) / PANEL * PANEL;
    float* inner = team.scratch(MAX_LANES * width);  // x A^T [rows, width]
    if (inner == nullptr) return;
    for (int64_t o = 0; o < width; o += PANEL)
        dense_panel<false>(
            x, x_stride, rows, delta.a + o * d_in, d_in, inner + o, width, {0xFFFF, 0xFFFF});
    add_dense(delta.b, inner, width, delta.rank, rows, y, y_stride, from, to);
}

// The forms whose kernel is the same for few rows and for many.
void add_filled(
    const Team& team, const Delta& delta, const float* x, int64_t d_in, const Block& block, float* y,
    int64_t y_stride, int64_t from, int64_t to) {
    x += block.row * d_in;
    y += block.row * y_stride;
    if (delta.kind & DENSE)
        add_dense(
            static_cast<const float*>(delta.values), x, d_in, d_in, block.rows, y, y_stride, from,
            to);
    else if (delta.kind & LOW_RANK)
        add_low_rank(team, delta, x, d_in, d_in, block.rows, y, y_stride, from, to);
}

// Tokens of a block, transposed: xt [d_in][16 V]. y[tokens, o..o + 16) += their products.
template <int V>
void add_sparse_tile(
    const Delta& delta, const float* xt, int64_t tokens, float* y, int64_t y_stride, int64_t o,
    int64_t outputs) {
    alignas(64) float tile[16][16 * V];
    for (int64_t i = 0; i < outputs; ++i) {
        const int64_t begin = delta.offsets[o + i], end = delta.offsets[o + i + 1];
        vec sum[V] = {};
        for (int64_t j = begin; j < end; j += 16) {
            alignas(64) float values[16];
            const int64_t count = std::min<int64_t>(16, end - j);
            _mm512_store_ps(values, load_values(delta, j, tail_mask(count)));
            for (int64_t k = 0; k < count; ++k) {
                const float* column = xt + int64_t{delta.columns[j + k]} * 16 * V;
                const vec value = _mm512_set1_ps(values[k]);
#pragma GCC unroll 8
                for (int v = 0; v < V; ++v)
                    sum[v] = _mm512_fmadd_ps(value, _mm512_load_ps(column + 16 * v), sum[v]);
            }
        }
#pragma GCC unroll 8
        for (int v = 0; v < V; ++v) _mm512_store_ps(tile[i] + 16 * v, sum[v]);
    }
    const __mmask16 mask = tail_mask(outputs);
#pragma GCC unroll 8
    for (int v = 0; v < V; ++v) {
        vec t[16];
        for (int i = 0; i < 16; ++i)
            t[i] = i < outputs ? _mm512_load_ps(tile[i] + 16 * v) : _mm512_setzero_ps();
        transpose(t);
        for (int64_t r = 0; r < 16 && 16 * v + r < tokens; ++r) {
            float* at = y + (16 * v + r) * y_stride + o;
            const vec total = _mm512_add_ps(_mm512_maskz_loadu_ps(mask, at), t[r]);
            _mm512_mask_storeu_ps(at, mask, total);
        }
    }
}

void add_sparse_tokens(
    const Delta& delta, const float* xt, int64_t lanes, int64_t tokens, float* y,
    int64_t y_stride, int64_t from, int64_t to) {
    for (int64_t o = from; o < to; o += 16) {
        const int64_t outputs = std::min<int64_t>(16, to - o);
        switch (lanes / LANES) {
            case 1: add_sparse_tile<1>(delta, xt, tokens, y, y_stride, o, outputs); break;
            case 2: add_sparse_tile<2>(delta, xt, tokens, y, y_stride, o, outputs); break;
            case 3: add_sparse_tile<3>(delta, xt, tokens, y, y_stride, o, outputs); break;
            default: add_sparse_tile<4>(delta, xt, tokens, y, y_stride, o, outputs);
        }
    }
}

int64_t lanes_of(const Block& block) { return (block.rows + LANES - 1) / LANES * LANES; }

constexpr int64_t FEW_OUTPUTS = 256;   // outputs of a piece of work: 3 pieces a row of each of T5-base's modules
constexpr int64_t MANY_OUTPUTS = 128;

// Walks (block, module, range of outputs), as the threads ask for them.
template <typename Add>
void each_piece(const Op& op, const Team& team, int64_t outputs, Add&& add) {
    const int64_t d_out = op.n[1], module = op.n[3], modules = op.n[4];
    const int64_t ranges = (d_out + outputs - 1) / outputs;
    team.share(1, team.step.blocks_count * modules * ranges, [&](int64_t i) {
        const Block& block = team.step.blocks[i / (modules * ranges)];
        const int64_t m = i / ranges % modules, from = i % ranges * outputs;
        const int64_t to = std::min(d_out, from + outputs);
        float* y = static_cast<float*>(op.p[1]) + m * d_out;
        for (int64_t t = 0; t < block.tables; ++t)  // in lineage order: the sum is ordered
            add(block, team.step.tables[block.first + t][module + m], y, from, to);
    });
}

}  // namespace

// p: x [rows, d_in], y [rows, stride] whose columns m * d_out.. belong to the m-th module.
// n: d_in, d_out, stride, first module, modules.
void delta_few(const Op& op, const Team& team) {
    const int64_t d_in = op.n[0], stride = op.n[2];
    const float* x = static_cast<const float*>(op.p[0]);
    each_piece(
        op, team, FEW_OUTPUTS,
        [&](const Block& block, const Delta& delta, float* y, int64_t from, int64_t to) {
            if (delta.kind & SPARSE)
                for (int64_t r = block.row; r < block.row + block.rows; ++r)
                    add_sparse_row(delta, x + r * d_in, y + r * stride, from, to);
            if (delta.kind & ~SPARSE) add_filled(team, delta, x, d_in, block, y, stride, from, to);
        });
}

// The same; p[3] is scratch for the transposed tokens, [lanes of all blocks][d_in] float.
void delta_many(const Op& op, const Team& team) {
    const int64_t d_in = op.n[0], stride = op.n[2];
    const float* x = static_cast<const float*>(op.p[0]);
    float* transposed = static_cast<float*>(op.p[3]);
    constexpr int64_t STRIPE = 64;  // columns of x of a piece
    const int64_t stripes = (d_in + STRIPE - 1) / STRIPE;
    team.share(0, team.step.blocks_count * stripes, [&](int64_t i) {
        const Block& block = team.step.blocks[i / stripes];
        const int64_t lanes = lanes_of(block), from = i % stripes * STRIPE;
        float* to = transposed + block.lane * d_in;
        for (int64_t k = from; k < std::min(d_in, from + STRIPE); k += LANES)
            for (int64_t r = 0; r < lanes; r += LANES)
                transpose_tile(
                    x + (block.row + r) * d_in + k, d_in, std::min(LANES, block.rows - r),
                    std::min(LANES, d_in - k), to + k * lanes + r, lanes);
    });
    each_piece(
        op, team, MANY_OUTPUTS,
        [&](const Block& block, const Delta& delta, float* y, int64_t from, int64_t to) {
            if (delta.kind & SPARSE)
                add_sparse_tokens(
                    delta, transposed + block.lane * d_in, lanes_of(block), block.rows,
                    y + block.row * stride, stride, from, to);
            if (delta.kind & ~SPARSE) add_filled(team, delta, x, d_in, block, y, stride, from, to);
        });
}

// The modules of a delta operation have numbers one after another.
bool is_delta_of_none(const Op& op, const Step& step) {
    if (op.kind != DELTA_FEW && op.kind != DELTA_MANY) return false;
    if (step.blocks_count == 0) return true;
    if (step.targeted == nullptr) return false;
    for (int64_t module = op.n[3]; module < op.n[3] + op.n[4]; ++module)
        if (step.targeted[module / 8] >> (module % 8) & 1) return false;
    return true;
}

}  // namespace jl
