// What adapters add: y += x D^T, for rows that each have a lineage of their own.
//
// A sparse D is compressed rows: 2 bytes a column, 2 or 4 bytes a value. For the few rows of a
// decode step each non-zero picks its number of x; for the many tokens of an encode x is transposed
// first, and each non-zero is one product with a whole vector of tokens.
// Which of the two runs depends on the phase alone. A low-rank D is two products (low_rank.h).
#include <cstring>

#include "linear.h"
#include "low_rank.h"
#include "run.h"
#include "simd.h"

namespace jl {

namespace {

vec load_values(const Delta& delta, int64_t at, int64_t left) {
    if (delta.value_type == VALUE_F32)
        return load_some(static_cast<const float*>(delta.values) + at, left);
    const uint16_t* from = static_cast<const uint16_t*>(delta.values) + at;
    return delta.value_type == VALUE_F16 ? load_f16(from, left) : load_bf16(from, left);
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
            store(values, load_values(delta, j, count));
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

// Rows x [rows, d_in] through the panels of a dense matrix, added to y.
void add_dense(
    const Delta& delta, const float* x, int64_t d_in, int64_t rows, float* y, int64_t y_stride,
    int64_t from, int64_t to) {
    constexpr int MOST = VECTORS >= 32 ? 8 : 6;
    for (int64_t o = from; o < to; o += PANEL) {
        const float* panel = static_cast<const float*>(delta.values) + o * d_in;
        const auto some = [&]<int R>(int64_t first) {
            constexpr int WIDE = std::min(2, columns_of<R>());
            for (int64_t column = 0; column < PANEL; column += WIDE * LANES) {
                vec c[R][WIDE];
                small_product<R, WIDE>(
                    x + first * d_in, d_in, panel + column, PANEL, d_in, LANES, c);
#pragma GCC unroll 8
                for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
                    for (int v = 0; v < WIDE; ++v) {
                        const int64_t at_column = o + column + LANES * v;
                        float* at = y + (first + r) * y_stride + at_column;
                        store_some(at, to - at_column, plus(c[r][v], load_some(at, to - at_column)));
                    }
            }
        };
        int64_t r = 0;
        for (; r + MOST <= rows; r += MOST) some.template operator()<MOST>(r);
        for (; r < rows; ++r) some.template operator()<1>(r);
    }
}

// Tokens of a block, transposed: xt [d_in][16 V]. y[tokens, o..o + 16) += their products.
template <int V>
void add_sparse_tile(
    const Delta& delta, const float* xt, int64_t tokens, float* y, int64_t y_stride, int64_t o,
    int64_t outputs) {
    alignas(64) float tile[16][16 * V];
    for (int64_t i = 0; i < outputs; ++i) {
        const int64_t begin = delta.offsets[o + i], end = delta.offsets[o + i + 1];
        vec sum[V];
#pragma GCC unroll 8
        for (int v = 0; v < V; ++v) sum[v] = fill(0);
        for (int64_t j = begin; j < end; j += 16) {
            alignas(64) float values[16];
            const int64_t count = std::min<int64_t>(16, end - j);
            store(values, load_values(delta, j, count));
            for (int64_t k = 0; k < count; ++k) {
                const float* column = xt + int64_t{delta.columns[j + k]} * 16 * V;
                const vec value = fill(values[k]);
#pragma GCC unroll 8
                for (int v = 0; v < V; ++v)
                    sum[v] = fused(value, load(column + 16 * v), sum[v]);
            }
        }
#pragma GCC unroll 8
        for (int v = 0; v < V; ++v) store(tile[i] + 16 * v, sum[v]);
    }
#pragma GCC unroll 8
    for (int v = 0; v < V; ++v) {
        vec t[16];
        for (int i = 0; i < 16; ++i)
            t[i] = i < outputs ? load(tile[i] + 16 * v) : fill(0);
        transpose(t);
        for (int64_t r = 0; r < 16 && 16 * v + r < tokens; ++r) {
            float* at = y + (16 * v + r) * y_stride + o;
            store_some(at, outputs, plus(load_some(at, outputs), t[r]));
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

// A delta of a block's lineage, and where its x A^T lies.
struct Piece {
    const Block& block;
    const Delta& delta;
    float* inner;
};

// Calls visit(piece) for one module's deltas of a block, oldest first: the sum is ordered.
template <typename Visit>
void each_delta(const Op& op, const Step& step, const Block& block, int64_t m, Visit&& visit) {
    const Delta* const* tables = step.tables + block.first;
    const int64_t module = op.n[3], lanes = lanes_of(block);
    float* inner = step.inner;
    if (inner != nullptr) {  // behind those of the modules before it
        inner += block.inner;
        for (int64_t before = module; before < module + m; ++before)
            for (int64_t t = 0; t < block.tables; ++t) inner += tables[t][before].rank * lanes;
    }
    for (int64_t t = 0; t < block.tables; ++t) {
        const Delta& delta = tables[t][module + m];
        visit(Piece{block, delta, inner});
        if (inner != nullptr) inner += delta.rank * lanes;
    }
}

// x A^T of a block's low-rank deltas for one module.
void multiply_inners(const Op& op, const Step& step, const Block& block, int64_t m) {
    const int64_t d_in = op.n[0];
    const float* x = static_cast<const float*>(op.p[0]) + block.row * d_in;
    each_delta(op, step, block, m, [&](const Piece& piece) {
        if (piece.delta.kind & LOW_RANK)
            multiply_inner(piece.delta, x, d_in, block.rows, piece.inner, lanes_of(block));
    });
}

// How many pieces of work multiply_inners is: none where no row of the step needs it.
int64_t inners_of(const Op& op, const Step& step) {
    return step.inner == nullptr ? 0 : step.blocks_count * op.n[4];
}

// Walks (block, module, range of outputs), as the threads ask for them: add(piece, y, from, to).
template <typename Add>
void each_range(const Op& op, const Team& team, int64_t outputs, Add&& add) {
    const int64_t d_in = op.n[0], d_out = op.n[1], stride = op.n[2], modules = op.n[4];
    const int64_t ranges = (d_out + outputs - 1) / outputs;
    const float* x = static_cast<const float*>(op.p[0]);
    team.share(1, team.step.blocks_count * modules * ranges, [&](int64_t i) {
        const Block& block = team.step.blocks[i / (modules * ranges)];
        const int64_t m = i / ranges % modules, from = i % ranges * outputs;
        const int64_t to = std::min(d_out, from + outputs);
        float* y = static_cast<float*>(op.p[1]) + block.row * stride + m * d_out;
        each_delta(op, team.step, block, m, [&](const Piece& piece) {
            if (piece.delta.kind & SPARSE) add(piece, y, from, to);
            if (piece.delta.kind & DENSE)
                add_dense(
                    piece.delta, x + block.row * d_in, d_in, block.rows, y, stride, from, to);
            if (piece.delta.kind & LOW_RANK)
                add_outer(
                    piece.delta, piece.inner, lanes_of(block), block.rows, y, stride, from, to);
        });
    });
}

// Some columns of a block's tokens, [d_in][lanes]; lanes without a token become zeros.
void transpose_stripe(
    const float* x, int64_t d_in, const Block& block, int64_t from, int64_t to, float* xt) {
    const int64_t lanes = lanes_of(block);
    for (int64_t k = from; k < to; k += LANES)
        for (int64_t r = 0; r < lanes; r += LANES)
            transpose_tile(
                x + (block.row + r) * d_in + k, d_in, std::min(LANES, block.rows - r),
                std::min(LANES, to - k), xt + k * lanes + r, lanes);
}

bool has_sparse(const Op& op, const Step& step, const Block& block) {
    for (int64_t t = block.first; t < block.first + block.tables; ++t)
        for (int64_t module = op.n[3]; module < op.n[3] + op.n[4]; ++module)
            if (step.tables[t][module].kind & SPARSE) return true;
    return false;
}

}  // namespace

// p: x [rows, d_in], y [rows, stride] whose columns m * d_out.. belong to the m-th module.
// n: d_in, d_out, stride, first module, modules.
void delta_few(const Op& op, const Team& team) {
    const int64_t d_in = op.n[0], stride = op.n[2], modules = op.n[4];
    const float* x = static_cast<const float*>(op.p[0]);
    team.share(0, inners_of(op, team.step), [&](int64_t i) {
        multiply_inners(op, team.step, team.step.blocks[i / modules], i % modules);
    });
    each_range(op, team, FEW_OUTPUTS, [&](const Piece& piece, float* y, int64_t from, int64_t to) {
        for (int64_t r = 0; r < piece.block.rows; ++r)
            add_sparse_row(
                piece.delta, x + (piece.block.row + r) * d_in, y + r * stride, from, to);
    });
}

// The same; p[3] is scratch for the transposed tokens, [lanes of all blocks][d_in] float.
void delta_many(const Op& op, const Team& team) {
    const int64_t d_in = op.n[0], stride = op.n[2], modules = op.n[4];
    const float* x = static_cast<const float*>(op.p[0]);
    float* transposed = static_cast<float*>(op.p[3]);
    constexpr int64_t STRIPE = 64;  // columns of x of a piece
    const int64_t stripes = (d_in + STRIPE - 1) / STRIPE;
    const int64_t inners = inners_of(op, team.step);
    team.share(0, inners + team.step.blocks_count * stripes, [&](int64_t i) {
        if (i < inners)
            return multiply_inners(op, team.step, team.step.blocks[i / modules], i % modules);
        const Block& block = team.step.blocks[(i - inners) / stripes];
        const int64_t from = (i - inners) % stripes * STRIPE, to = std::min(d_in, from + STRIPE);
        if (has_sparse(op, team.step, block))
            transpose_stripe(x, d_in, block, from, to, transposed + block.lane * d_in);
    });
    each_range(op, team, MANY_OUTPUTS, [&](const Piece& piece, float* y, int64_t from, int64_t to) {
        add_sparse_tokens(
            piece.delta, transposed + piece.block.lane * d_in, lanes_of(piece.block),
            piece.block.rows, y, stride, from, to);
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
