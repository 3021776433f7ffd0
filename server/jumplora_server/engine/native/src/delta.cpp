// What adapters add: y += x D^T, for rows that each have a lineage of their own.
//
// A sparse D is compressed rows: 2 bytes a column, 2 or 4 bytes a value. Where several rows add one D,
// x is transposed first, and each non-zero is one product with a vector of rows: 16 to 64 tokens of an
// encode, or the rows of a decode that have an ancestor in common. A row that is alone with its D picks
// its numbers of x instead, in the same order of sums.
// A row's order is that of its phase: four sums an output take turns in a decode, and one does in an
// encode. A low-rank D is two products (low_rank.h).
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

constexpr int TURNS = 4;        // sums of an output that take turns in a decode
constexpr int64_t LAID = 1024;  // non-zeros that are laid side by side: a multiple of TURNS

// Non-zeros from `begin` to `end` and the numbers of x that they belong to, side by side: nothing here
// depends on where an output ends, and a wrong guess of that costs as much as 20 of them. Loading x one
// number at a time beats the gather instruction, which takes more than twice as long on AMD.
void lay(
    const Delta& delta, const float* x, int64_t begin, int64_t end, float* values, float* numbers) {
    for (int64_t j = begin; j < end; j += LANES)
        store(values + j - begin, load_values(delta, j, end - j));
    const uint16_t* columns = delta.columns + begin;
    const int64_t count = end - begin;
    int64_t k = 0;
    for (; k + 8 <= count; k += 8)
#pragma GCC unroll 8
        for (int i = 0; i < 8; ++i) numbers[k + i] = x[columns[k + i]];
    for (; k < count; ++k) numbers[k] = x[columns[k]];
}

// Laid non-zeros of N outputs, from at[i] to at[i + 1], added to their sums. Outputs are taken together
// so that one's sums need not wait for those of another, nor for the guess where it ends.
template <int N>
void add_laid(const float* values, const float* numbers, const int64_t (&at)[N + 1], four (&sums)[N]) {
    int64_t least = at[1] - at[0], most = least;
#pragma GCC unroll 8
    for (int i = 1; i < N; ++i) {
        least = std::min(least, at[i + 1] - at[i]);
        most = std::max(most, at[i + 1] - at[i]);
    }
    int64_t k = 0;
    for (; k + TURNS <= least; k += TURNS)
#pragma GCC unroll 8
        for (int i = 0; i < N; ++i)
            sums[i] = fused(load_four(values + at[i] + k), load_four(numbers + at[i] + k), sums[i]);
    for (; k < most; k += TURNS)
#pragma GCC unroll 8
        for (int i = 0; i < N; ++i) {
            const int64_t left = at[i + 1] - at[i] - k;
            sums[i] = fused(
                load_four(values + at[i] + k, left), load_four(numbers + at[i] + k, left), sums[i]);
        }
}

// One row: y[o] += sum over the row o of D, for o in [from, to).
void add_sparse_row(const Delta& delta, const float* x, float* y, int64_t from, int64_t to) {
    constexpr int TOGETHER = 4;
    alignas(64) float values[LAID + LANES], numbers[LAID + LANES];
    const int32_t* offsets = delta.offsets;
    while (from < to) {
        const int64_t begin = offsets[from];
        int64_t stop = from;
        while (stop < to && offsets[stop + 1] - begin <= LAID) ++stop;
        lay(delta, x, begin, offsets[stop], values, numbers);
        for (; from < stop; from += TOGETHER) {
            int64_t at[TOGETHER + 1];
            four sums[TOGETHER];
            for (int i = 0; i <= TOGETHER; ++i) at[i] = offsets[std::min(from + i, stop)] - begin;
            for (int i = 0; i < TOGETHER; ++i) sums[i] = no_four();
            add_laid<TOGETHER>(values, numbers, at, sums);
            for (int64_t i = 0; i < std::min<int64_t>(TOGETHER, stop - from); ++i)
                y[from + i] += sum_lanes(sums[i]);
        }
        from = stop;
        if (from == to || offsets[from + 1] - offsets[from] <= LAID) continue;
        four sums[1] = {no_four()};  // an output of more
        for (int64_t j = offsets[from]; j < offsets[from + 1]; j += LAID) {
            const int64_t end = std::min<int64_t>(j + LAID, offsets[from + 1]);
            lay(delta, x, j, end, values, numbers);
            add_laid<1>(values, numbers, {0, end - j}, sums);
        }
        y[from++] += sum_lanes(sums[0]);
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

// Rows of a family, transposed: xt [d_in][16 V]. y[o..o + 16) of those of a block += their products;
// T sums of an output take turns.
template <int V, int T>
void add_sparse_tile(
    const Delta& delta, const float* xt, int64_t skipped, int64_t rows, float* y, int64_t y_stride,
    int64_t o, int64_t outputs) {
    alignas(64) float tile[LANES][LANES * V];
    for (int64_t i = 0; i < outputs; ++i) {
        const int64_t begin = delta.offsets[o + i], end = delta.offsets[o + i + 1];
        vec sum[T][V];
#pragma GCC unroll 4
        for (int t = 0; t < T; ++t)
#pragma GCC unroll 4
            for (int v = 0; v < V; ++v) sum[t][v] = fill(0);
        const auto add = [&](float number, int64_t column, vec (&sums)[V]) {
            const vec value = fill(number);
            const float* own = xt + column * LANES * V;
#pragma GCC unroll 4
            for (int v = 0; v < V; ++v) sums[v] = fused(value, load(own + LANES * v), sums[v]);
        };
        for (int64_t j = begin; j < end; j += LANES) {
            alignas(64) float values[LANES];
            const int64_t count = std::min<int64_t>(LANES, end - j);
            store(values, load_values(delta, j, count));
            const uint16_t* columns = delta.columns + j;
            int64_t k = 0;
            for (; k + T <= count; k += T)
#pragma GCC unroll 4
                for (int t = 0; t < T; ++t) add(values[k + t], columns[k + t], sum[t]);
            if constexpr (T > 1)
#pragma GCC unroll 4
                for (int t = 0; t < T - 1; ++t)
                    if (k + t < count) add(values[k + t], columns[k + t], sum[t]);
        }
#pragma GCC unroll 4
        for (int v = 0; v < V; ++v) {
            if constexpr (T == TURNS)
                sum[0][v] = plus(plus(sum[0][v], sum[1][v]), plus(sum[2][v], sum[3][v]));
            store(tile[i] + LANES * v, sum[0][v]);
        }
    }
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) {
        vec t[LANES];
        for (int i = 0; i < LANES; ++i) t[i] = i < outputs ? load(tile[i] + LANES * v) : fill(0);
        transpose(t);
        for (int64_t r = 0; r < LANES; ++r) {
            const int64_t row = LANES * v + r - skipped;
            if (row < 0 || row >= rows) continue;
            float* at = y + row * y_stride + o;
            store_some(at, outputs, plus(load_some(at, outputs), t[r]));
        }
    }
}

int64_t lanes_of(int64_t rows) { return (rows + LANES - 1) / LANES * LANES; }

constexpr int64_t OUTPUTS = 128;  // of a piece of work

// A block's delta for one module, its family, and where its x A^T lies.
struct Piece {
    const Family& family;
    const Block& block;
    const Delta& delta;
    float* inner;
};

Piece piece_of(const Op& op, const Step& step, const Family& family, const Block& block, int64_t m) {
    float* inner = step.inner;
    if (inner != nullptr) {  // behind those of the modules before it
        inner += block.inner;
        for (int64_t before = op.n[3]; before < op.n[3] + m; ++before)
            inner += block.table[before].rank * lanes_of(block.rows);
    }
    return {family, block, block.table[op.n[3] + m], inner};
}

// Work before the products: x A^T of each block's low-rank deltas, where a row of the step needs it,
// and what a kernel asks for.
int64_t inners_of(const Op& op, const Step& step) {
    return step.inner == nullptr ? 0 : step.blocks_count * op.n[4];
}

void multiply_inners(const Op& op, const Step& step, int64_t i) {
    const int64_t d_in = op.n[0], modules = op.n[4];
    const Block& block = step.blocks[i / modules];
    const Piece piece = piece_of(op, step, step.families[0], block, i % modules);
    if (piece.delta.kind & LOW_RANK)
        multiply_inner(
            piece.delta, static_cast<const float*>(op.p[0]) + block.row * d_in, d_in, block.rows,
            piece.inner, lanes_of(block.rows));
}

// Walks (family, module, range of outputs), as the threads ask for them: add(piece, y, from, to), and
// what is not sparse.
template <typename Add>
void each_range(const Op& op, const Team& team, Add&& add) {
    const int64_t d_in = op.n[0], d_out = op.n[1], stride = op.n[2], modules = op.n[4];
    const int64_t ranges = (d_out + OUTPUTS - 1) / OUTPUTS;
    const float* x = static_cast<const float*>(op.p[0]);
    const Step& step = team.step;
    team.share(1, step.families_count * modules * ranges, [&](int64_t i) {
        const Family& family = step.families[i / (modules * ranges)];
        const int64_t m = i / ranges % modules, from = i % ranges * OUTPUTS;
        const int64_t to = std::min(d_out, from + OUTPUTS);
        for (int64_t b = family.first; b < family.first + family.blocks; ++b) {
            const Piece piece = piece_of(op, step, family, step.blocks[b], m);
            const auto& [row, rows, table, at] = piece.block;
            float* y = static_cast<float*>(op.p[1]) + row * stride + m * d_out;
            if (piece.delta.kind & SPARSE) add(piece, y, from, to);
            if (piece.delta.kind & DENSE)
                add_dense(piece.delta, x + row * d_in, d_in, rows, y, stride, from, to);
            if (piece.delta.kind & LOW_RANK)
                add_outer(piece.delta, piece.inner, lanes_of(rows), rows, y, stride, from, to);
        }
    });
}

// Whether the transposed x of a family is wanted: some module's delta is sparse, of a block of `least`
// rows or more.
bool is_transposed(const Op& op, const Step& step, const Family& family, int64_t least) {
    for (int64_t b = family.first; b < family.first + family.blocks; ++b)
        for (int64_t m = op.n[3]; m < op.n[3] + op.n[4]; ++m)
            if (step.blocks[b].rows >= least && step.blocks[b].table[m].kind & SPARSE) return true;
    return false;
}

// Transposes x of families, [d_in][lanes] each, in a scratch for the lanes of all; lanes without a row
// become zeros. Beside it, the low-rank deltas' x A^T.
void prepare(const Op& op, const Team& team, int64_t least) {
    const int64_t d_in = op.n[0];
    const float* x = static_cast<const float*>(op.p[0]);
    constexpr int64_t STRIPE = 64;  // columns of x of a piece
    const int64_t stripes = (d_in + STRIPE - 1) / STRIPE, inners = inners_of(op, team.step);
    const int64_t families = op.n[5] != 0 ? team.step.families_count : 0;
    team.share(0, inners + families * stripes, [&](int64_t i) {
        if (i < inners) return multiply_inners(op, team.step, i);
        const Family& family = team.step.families[(i - inners) / stripes];
        if (!is_transposed(op, team.step, family, least)) return;
        const int64_t from = (i - inners) % stripes * STRIPE, to = std::min(d_in, from + STRIPE);
        const int64_t lanes = lanes_of(family.rows);
        float* xt = static_cast<float*>(op.p[2]) + family.lane * d_in;
        for (int64_t k = from; k < to; k += LANES)
            for (int64_t r = 0; r < lanes; r += LANES)
                transpose_tile(
                    x + (family.row + r) * d_in + k, d_in, std::min(LANES, family.rows - r),
                    std::min(LANES, to - k), xt + k * lanes + r, lanes);
    });
}

constexpr int64_t SHARING = 2;  // rows of a decode that are rather computed together

}  // namespace

// p: x [rows, d_in], y [rows, stride] whose columns m * d_out.. belong to the m-th module, scratch
//    for transposed rows, [lanes of all families][d_in] float.
// n: d_in, d_out, stride, first module, modules, what settle_delta sets.
void delta_few(const Op& op, const Team& team) {
    const int64_t d_in = op.n[0], stride = op.n[2];
    prepare(op, team, SHARING);
    each_range(op, team, [&](const Piece& piece, float* y, int64_t from, int64_t to) {
        const auto& [row, rows, table, at] = piece.block;
        if (rows < SHARING)
            return add_sparse_row(
                piece.delta, static_cast<const float*>(op.p[0]) + row * d_in, y, from, to);
        const float* xt = static_cast<const float*>(op.p[2]) + piece.family.lane * d_in;
        for (int64_t o = from; o < to; o += LANES)
            add_sparse_tile<1, TURNS>(
                piece.delta, xt, row - piece.family.row, rows, y, stride, o,
                std::min(LANES, to - o));
    });
}

void delta_many(const Op& op, const Team& team) {
    const int64_t d_in = op.n[0], stride = op.n[2];
    prepare(op, team, 1);
    each_range(op, team, [&](const Piece& piece, float* y, int64_t from, int64_t to) {
        const float* xt = static_cast<const float*>(op.p[2]) + piece.family.lane * d_in;
        const auto add = [&]<int V>() {
            for (int64_t o = from; o < to; o += LANES)
                add_sparse_tile<V, 1>(
                    piece.delta, xt, piece.block.row - piece.family.row, piece.block.rows, y,
                    stride, o, std::min(LANES, to - o));
        };
        switch (lanes_of(piece.family.rows) / LANES) {
            case 1: return add.template operator()<1>();
            case 2: return add.template operator()<2>();
            case 3: return add.template operator()<3>();
            default: return add.template operator()<4>();
        }
    });
}

// Sets n[5]: whether rows are to be transposed. The modules of an operation have numbers one after
// another.
void settle_delta(Op& op, const Step& step) {
    if (step.families_count == 0 || !has_any(step.targeted, op.n[3], op.n[4])) {
        op.kind = NOTHING;
        return;
    }
    op.n[5] = 0;
    const int64_t least = op.kind == DELTA_FEW ? SHARING : 1;
    for (int64_t f = 0; f < step.families_count && op.n[5] == 0; ++f)
        op.n[5] = is_transposed(op, step, step.families[f], least);
}

}  // namespace jl
