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

// Weights are asked for so many turns of the loop ahead: a decode step reads each of them once or
// twice, faster than the processor foresees.
constexpr int64_t AHEAD = 16;

// A block of rows, with one trunk or none.
struct Rows {
    int64_t first, count;
    const Delta* trunk;
};

// How a step's rows are cut into blocks, of nearly one size so that none is left with a row or two.
// None has rows of two trunks, where a trunk of the step has one of the operation's weights.
class RowBlocks {
  public:
    RowBlocks(const Op& op, const Step& step, int64_t most)
        : whole_{0, step.rows, nullptr}, segments_(&whole_), count_(1), most_(most) {
        if (op.n[6] != 0) {
            segments_ = step.segments;
            count_ = step.segments_count;
        }
    }

    int64_t count() const {
        int64_t blocks = 0;
        for (int64_t s = 0; s < count_; ++s) blocks += blocks_of(segments_[s]);
        return blocks;
    }

    // visit(number, block) for all of them in their order.
    template <typename Visit>
    void each(Visit&& visit) const {
        int64_t number = 0;
        for (int64_t s = 0; s < count_; ++s) {
            const auto& [row, rows, trunk] = segments_[s];
            const int64_t blocks = blocks_of(segments_[s]), size = (rows + blocks - 1) / blocks;
            for (int64_t b = 0; b < rows; b += size)
                visit(number++, Rows{row + b, std::min(size, rows - b), trunk});
        }
    }

  private:
    int64_t blocks_of(const Segment& segment) const {
        const int64_t fewest = (segment.rows + most_ - 1) / most_;
        const int64_t size = (segment.rows + fewest - 1) / fewest;
        return (segment.rows + size - 1) / size;
    }

    const Segment whole_;
    const Segment* segments_;
    int64_t count_, most_;
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
            __builtin_prefetch(w + AHEAD * PANEL);
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
struct RowScales {
    RowScale first, second;  // of a row's two bytes
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
            __builtin_prefetch(w + AHEAD * 4 * PANEL);
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

// A row for a trunk has a second byte: what the first leaves over, in parts of 1 / PARTS.
constexpr float PARTS = 254;

// Symmetric int8 of one row, four neighbours a quad, written with a stride of `step` quads; where
// `rest` is given, the second bytes go there. Gives what each of the two was quantised with.
RowScales quantise_row(const float* x, int64_t d, quad* q, quad* rest, int64_t step) {
    vec largest = fill(0);
    lanes broken = 0;
    for (int64_t j = 0; j < d; j += LANES) {
        const vec value = load_some(x + j, d - j);
        broken |= unordered(value);
        largest = higher(largest, magnitude(value));
    }
    float scale = std::fmax(highest_lane(largest), 1e-12f) / 127.0f;
    if (broken != 0) scale = NAN;  // a broken row must not look sound
    ints total = no_ints(), rests = no_ints();
    int32_t fours[4];
    const auto write = [&](quad* to, int64_t j) {
        for (int64_t i = 0; i < 4 && j + 4 * i < d; ++i) to[(j / 4 + i) * step] = to_quad(fours[i]);
    };
    for (int64_t j = 0; j < d; j += LANES) {
        const vec exact = over(load_some(x + j, d - j), fill(scale));
        const ints whole = round_to_bytes(exact, fours);
        total = plus(total, whole);
        write(q, j);
        if (rest == nullptr) continue;
        const vec left = times(minus(exact, to_floats(whole)), fill(PARTS));
        rests = plus(rests, round_to_bytes(left, fours));
        write(rest, j);
    }
    return {
        {scale, WEIGHT_OFFSET * sum_lanes(total)},
        {scale / PARTS, WEIGHT_OFFSET * sum_lanes(rests)}};
}

// Where the rows of an operation lie packed. Those of a decode step are packed by each thread for
// itself: that takes less than waiting for the other threads, and for cache lines that they write to.
// Of more rows each block is packed by one thread, or each row where there are few blocks.
template <typename Pack>  // pack(where, row, block)
class PackedRows {
  public:
    // `shared` has room for `floats`.
    PackedRows(
        const Team& team, const RowBlocks& blocks, float* shared, int64_t floats, const Pack& pack)
        : team_(team), blocks_(blocks), floats_(floats), pack_(pack) {
        if (team.step.rows <= FEW) return;
        at_ = shared;
        const bool by_block = blocks.count() >= team.threads;
        team.share(0, by_block ? blocks.count() : team.step.rows, [&](int64_t i) {
            blocks.each([&](int64_t number, const Rows& rows) {
                for (int64_t r = rows.first; r < rows.first + rows.count; ++r)
                    if (by_block ? number == i : r == i) pack(at_, r, rows);
            });
        });
    }

    // Inside of a piece of work; null where there is no memory.
    float* get() {
        if (at_ != nullptr || (at_ = team_.scratch(floats_)) == nullptr) return at_;
        blocks_.each([&](int64_t, const Rows& rows) {
            for (int64_t r = rows.first; r < rows.first + rows.count; ++r) pack_(at_, r, rows);
        });
        return at_;
    }

  private:
    static constexpr int64_t FEW = 16;
    const Team& team_;
    const RowBlocks& blocks_;
    const int64_t floats_;
    const Pack& pack_;
    float* at_ = nullptr;
};

// A panel of one module's weight, the backbone's or a trunk's.
struct Panel {
    const void* weights;
    const float* scales;
    bool is_merged;
};

// compute(block, panel, output), as the threads ask for them: a piece of work is a panel with some of
// the blocks, enough of them for every thread. `size` is a panel's bytes.
template <typename Compute>
void each_block(
    const Op& op, const Team& team, const RowBlocks& blocks, int64_t size, Compute&& compute) {
    const int64_t d_out = op.n[1], stride = op.n[2], count = blocks.count();
    const int64_t each = (d_out + PANEL - 1) / PANEL, panels = op.n[5] * each;
    const int64_t groups = std::min<int64_t>(count, (4 * team.threads + panels - 1) / panels);
    team.share(1, panels * groups, [&](int64_t i) {
        const int64_t group = i / panels, panel = i % panels;
        const int64_t module = panel / each, own = panel % each;
        blocks.each([&](int64_t number, const Rows& rows) {
            if (number * groups / count != group) return;
            const Delta* merged = rows.trunk == nullptr ? nullptr : rows.trunk + op.n[4] + module;
            const bool is_merged = merged != nullptr && merged->kind == TRUNK;
            const auto weights = static_cast<const uint8_t*>(is_merged ? merged->values : op.p[1]);
            const int64_t at = is_merged ? own : panel;
            const float* scales = is_merged ? merged->b : static_cast<const float*>(op.p[4]);
            if (scales != nullptr) scales += at * PANEL;
            float* y = static_cast<float*>(op.p[2]) + rows.first * stride + module * d_out;
            compute(
                rows, Panel{weights + at * size, scales, is_merged},
                Output{y + own * PANEL, stride, d_out - own * PANEL, op.n[3] != 0});
        });
    });
}

}  // namespace

// Sets n[6]: whether a trunk of the step has one of the weights.
void settle_linear(Op& op, const Step& step) {
    op.n[6] = step.segments_count > 0 && has_any(step.merged, op.n[4], op.n[5]);
}

// p: x [rows, d_in], panels of all modules, y [rows, stride] whose columns m * d_out.. belong to the
//    m-th module, scratch [rows * d_in] float.
// n: d_in, d_out of a module, stride, whether y is added to, first module, modules, what
//    settle_linear sets.
void linear_f32(const Op& op, const Team& team) {
    const int64_t d_in = op.n[0];
    const RowBlocks blocks(op, team.step, ROWS_F32);
    const float* x = static_cast<const float*>(op.p[0]);
    const auto pack = [&](float* to, int64_t i, const Rows& rows) {
        to += rows.first * d_in + i - rows.first;
        for (int64_t k = 0; k < d_in; ++k) to[k * rows.count] = x[i * d_in + k];
    };
    PackedRows packed(
        team, blocks, static_cast<float*>(op.p[3]), team.step.rows * d_in, pack);
    const int64_t size = d_in * PANEL * static_cast<int64_t>(sizeof(float));
    each_block(op, team, blocks, size, [&](const Rows& rows, const Panel& panel, const Output& out) {
        const float* const own = packed.get();
        if (own == nullptr) return;
        const auto w = static_cast<const float*>(panel.weights);
        product_of<ROWS_F32>(
            rows.count, [&]<int R>() { product_f32<R>(own + rows.first * d_in, w, d_in, out); });
    });
}

// p: x [rows, d_in], panels, y [rows, stride], scratch [4 * rows] float and [2 * rows * quads] quad,
//    scales of the weights, as many as the panels have outputs.
// n: as above.
// A row's scales come first, those of second bytes behind those of the first ones, and so do the bytes.
// A trunk's deltas would without the second ones meet a coarser x than those that are applied beside
// the backbone's weights.
void linear_i8(const Op& op, const Team& team) {
    const int64_t d_in = op.n[0], quads = (d_in + 3) / 4, all = team.step.rows;
    const RowBlocks blocks(op, team.step, ROWS_I8);
    const float* x = static_cast<const float*>(op.p[0]);
    constexpr int64_t EACH = sizeof(RowScale) / sizeof(float), WIDE = sizeof(quad) / sizeof(float);
    const auto pack = [&](float* packed, int64_t i, const Rows& rows) {
        const auto scales = reinterpret_cast<RowScale*>(packed);
        const auto to =
            reinterpret_cast<quad*>(packed + 2 * EACH * all) + rows.first * quads + i - rows.first;
        quad* const rest = rows.trunk == nullptr ? nullptr : to + all * quads;
        const RowScales found = quantise_row(x + i * d_in, d_in, to, rest, rows.count);
        scales[i] = found.first;
        scales[all + i] = found.second;
    };
    PackedRows packed(
        team, blocks, static_cast<float*>(op.p[3]), 2 * all * (EACH + WIDE * quads), pack);
    const int64_t size = quads * 4 * PANEL;
    each_block(op, team, blocks, size, [&](const Rows& rows, const Panel& panel, const Output& out) {
        const float* const own = packed.get();
        if (own == nullptr) return;
        const auto scales = reinterpret_cast<const RowScale*>(own);
        const auto bytes = reinterpret_cast<const quad*>(own + 2 * EACH * all);
        const auto add = [&](int64_t first, const Output& to) {
            product_of<ROWS_I8>(rows.count, [&]<int R>() {
                product_i8<R>(
                    bytes + first * quads, static_cast<const uint8_t*>(panel.weights), quads,
                    scales + first, panel.scales, to);
            });
        };
        add(rows.first, out);
        if (panel.is_merged) add(all + rows.first, Output{out.y, out.stride, out.left, true});
    });
}

}  // namespace jl
