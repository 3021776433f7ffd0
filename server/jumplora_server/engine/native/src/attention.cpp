// Attention: inside prompts for the encoder, over cache rows for the decoder. T5 does not scale the
// scores; position biases come from tables by distance.
//
// A row's own keys and values lie in its row of the target caches, its prompt's in a place of the
// source caches. Caches of one layer: keys [row][head][length / 16][d_kv][16], so that the keys a
// row really has are one stream of memory and 16 scores come out of one vector; values
// [row][head][length][d_kv].
#include <cmath>
#include <cstring>

#include "run.h"
#include "simd.h"

namespace jl {

namespace {

int64_t round_up(int64_t n) { return (n + LANES - 1) / LANES * LANES; }

// scores[0..n) become e^(s - max); returns what they sum up to. Lanes past n are zeroed.
float exponentiate(float* scores, int64_t n) {
    vec highest = _mm512_set1_ps(-INFINITY);
    for (int64_t j = 0; j < n; j += 16)
        highest = _mm512_mask_max_ps(
            highest, tail_mask(n - j), highest, _mm512_maskz_loadu_ps(tail_mask(n - j), scores + j));
    const vec top = _mm512_set1_ps(_mm512_reduce_max_ps(highest));
    vec total = _mm512_setzero_ps();
    for (int64_t j = 0; j < n; j += 16) {
        const vec s = _mm512_maskz_loadu_ps(tail_mask(n - j), scores + j);
        const vec e = _mm512_maskz_mov_ps(tail_mask(n - j), exp_ps(_mm512_sub_ps(s, top)));
        _mm512_storeu_ps(scores + j, e);
        total = _mm512_add_ps(total, e);
    }
    return _mm512_reduce_add_ps(total);
}

constexpr int QUERIES = 6;  // of a prompt, taken together: 6 times 4 vectors fill the registers

// One head of a prompt: R queries from `first` on over all n tokens.
template <int R>
void attend_block(
    const float* qkv, int64_t stride, int64_t inner, int64_t d_kv, const float* keys,
    int64_t width, const float* bias, int64_t first, int64_t n, float* scores, float* out) {
    for (int64_t j = 0; j < n; j += 64) {  // keys are padded to whole 64s with zeros
        vec c[R][4];
        small_product<R, 4>(qkv + first * stride, stride, keys + j, width, d_kv, 0xFFFF, c);
#pragma GCC unroll 8
        for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
            for (int v = 0; v < 4; ++v) {
                const int64_t key = j + 16 * v;
                const __mmask16 mask = tail_mask(n - key);
                const vec at = _mm512_maskz_loadu_ps(mask, bias + key - (first + r));
                _mm512_storeu_ps(scores + r * width + key, _mm512_add_ps(c[r][v], at));
            }
    }
    float total[R];
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) total[r] = exponentiate(scores + r * width, n);
    const float* values = qkv + 2 * inner;
    for (int64_t d = 0; d < d_kv; d += 16) {
        const __mmask16 mask = tail_mask(d_kv - d);
        const auto store = [&](int r, int64_t at, vec value, __mmask16 m) {
            const vec mean = _mm512_div_ps(value, _mm512_set1_ps(total[r]));
            _mm512_mask_storeu_ps(out + (first + r) * inner + at, m, mean);
        };
        if (d + 64 <= d_kv) {
            vec c[R][4];
            small_product<R, 4>(scores, width, values + d, stride, n, 0xFFFF, c);
#pragma GCC unroll 8
            for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
                for (int v = 0; v < 4; ++v) store(r, d + 16 * v, c[r][v], 0xFFFF);
            d += 48;
        } else {
            vec c[R][1];
            small_product<R, 1>(scores, width, values + d, stride, n, mask, c);
#pragma GCC unroll 8
            for (int r = 0; r < R; ++r) store(r, d, c[r][0], mask);
        }
    }
}

template <int R, typename... Args>
void attend_rest(int64_t rows, Args... args) {
    if (rows == R) return attend_block<R>(args...);
    if constexpr (R > 1) attend_rest<R - 1>(rows, args...);
}

template <typename T>
struct Rows {  // one layer's cache as one (row or place, head) sees it
    T* keys;
    T* values;
    Rows(const Op& op, int keys_at, int64_t row, int64_t head, int64_t heads, int64_t d_kv,
         int64_t length) {
        const int64_t offset = (row * heads + head) * d_kv * length;
        keys = static_cast<T*>(op.p[keys_at]) + offset;
        values = static_cast<T*>(op.p[keys_at + 1]) + offset;
    }
    T& key(int64_t position, int64_t d, int64_t d_kv) {
        return keys[(position / LANES * d_kv + d) * LANES + position % LANES];
    }
};

// R queries over `n` tokens of one cache row, each query and its out [d_kv] `apart` from the next;
// scores is scratch for R times n, rounded up. `bias`, the same for all of them, may be null.
template <int R>
void attend_cache(
    const float* q, int64_t apart, const Rows<float>& cache, int64_t d_kv, int64_t n,
    const float* bias, float* scores, float* out) {
    const int64_t width = round_up(n);
    for (int64_t j = 0; j < n; j += 4 * LANES) {
        vec c[R][4] = {};
        const int64_t groups = std::min<int64_t>(4, (n - j + LANES - 1) / LANES);
        const float* keys = cache.keys + j * d_kv;
        const auto sum = [&]<int G>() {
            for (int64_t d = 0; d < d_kv; ++d) {
                vec key[G];
#pragma GCC unroll 8
                for (int g = 0; g < G; ++g) key[g] = _mm512_loadu_ps(keys + (g * d_kv + d) * LANES);
#pragma GCC unroll 8
                for (int r = 0; r < R; ++r) {
                    const vec scalar = _mm512_set1_ps(q[r * apart + d]);
#pragma GCC unroll 8
                    for (int g = 0; g < G; ++g) c[r][g] = _mm512_fmadd_ps(scalar, key[g], c[r][g]);
                }
            }
        };
        if (groups == 4) sum.template operator()<4>();
        else if (groups == 3) sum.template operator()<3>();
        else if (groups == 2) sum.template operator()<2>();
        else sum.template operator()<1>();
#pragma GCC unroll 8
        for (int r = 0; r < R; ++r)
            for (int64_t g = 0; g < groups; ++g) {
                const int64_t key = j + g * LANES;
                if (bias != nullptr)
                    c[r][g] = _mm512_add_ps(c[r][g], _mm512_maskz_loadu_ps(tail_mask(n - key), bias + key));
                _mm512_storeu_ps(scores + r * width + key, c[r][g]);
            }
    }
    float total[R];
    for (int r = 0; r < R; ++r) total[r] = exponentiate(scores + r * width, n);
    for (int64_t d = 0; d < d_kv;) {
        if (d + 64 <= d_kv) {
            vec c[R][4];
            small_product<R, 4>(scores, width, cache.values + d, d_kv, n, 0xFFFF, c);
#pragma GCC unroll 8
            for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
                for (int v = 0; v < 4; ++v)
                    _mm512_storeu_ps(
                        out + r * apart + d + 16 * v,
                        _mm512_div_ps(c[r][v], _mm512_set1_ps(total[r])));
            d += 64;
        } else {
            const __mmask16 mask = tail_mask(d_kv - d);
            vec c[R][1];
            small_product<R, 1>(scores, width, cache.values + d, d_kv, n, mask, c);
#pragma GCC unroll 8
            for (int r = 0; r < R; ++r)
                _mm512_mask_storeu_ps(
                    out + r * apart + d, mask, _mm512_div_ps(c[r][0], _mm512_set1_ps(total[r])));
            d += 16;
        }
    }
}

constexpr int SHARING = 4;  // neighbouring rows of one prompt that are taken together: a beam's

template <int R, typename... Args>
void attend_sharing(int64_t rows, Args... args) {
    if (rows == R) return attend_cache<R>(args...);
    if constexpr (R > 1) attend_sharing<R - 1>(rows, args...);
}

}  // namespace

// p: qkv [rows, 3 inner], out [rows, inner], bias [heads, 2 longest - 1] by key minus query.
// n: heads, d_kv, longest.
void attend_prompts(const Op& op, const Team& team) {
    const int64_t heads = op.n[0], d_kv = op.n[1], longest = op.n[2], inner = heads * d_kv;
    const int64_t stride = 3 * inner;
    team.share(0, team.step.sequences * heads, [&](int64_t i) {
        const int64_t sequence = i / heads, head = i % heads;
        const int64_t n = team.step.lengths[sequence], width = (n + 63) / 64 * 64;
        const int64_t start = team.step.starts[sequence];
        const float* qkv = static_cast<const float*>(op.p[0]) + start * stride + head * d_kv;
        float* out = static_cast<float*>(op.p[1]) + start * inner + head * d_kv;
        const float* bias =
            static_cast<const float*>(op.p[2]) + head * (2 * longest - 1) + longest - 1;
        float* keys = team.scratch((d_kv + QUERIES) * width);  // [d_kv, width], transposed
        if (keys == nullptr) return;
        float* scores = keys + d_kv * width;
        for (int64_t j = 0; j < width; j += LANES)
            for (int64_t d = 0; d < d_kv; d += LANES)
                transpose_tile(
                    qkv + j * stride + inner + d, stride, std::min(LANES, n - j),
                    std::min(LANES, d_kv - d), keys + d * width + j, width);
        for (int64_t first = 0; first < n; first += QUERIES)
            attend_rest<QUERIES>(
                std::min<int64_t>(QUERIES, n - first), qkv, stride, inner, d_kv,
                static_cast<const float*>(keys), width, bias, first, n, scores, out);
    });
}

// p: kv [rows, 2 inner], keys, values (the layer's cross-attention cache).  n: heads, d_kv, length.
void store_source(const Op& op, const Team& team) {
    const int64_t heads = op.n[0], d_kv = op.n[1], length = op.n[2], inner = heads * d_kv;
    team.share(0, team.step.sequences * heads, [&](int64_t i) {
        const int64_t sequence = i / heads, head = i % heads;
        Rows<float> cache(op, 1, team.step.source_places[sequence], head, heads, d_kv, length);
        const int64_t n = team.step.lengths[sequence], stride = 2 * inner;
        const float* kv = static_cast<const float*>(op.p[0]) +
                          team.step.starts[sequence] * stride + head * d_kv;
        for (int64_t t = 0; t < n; t += LANES)
            for (int64_t d = 0; d < d_kv; d += LANES)
                transpose_tile(
                    kv + t * stride + d, stride, std::min(LANES, n - t),
                    std::min(LANES, d_kv - d), cache.keys + (t * d_kv + d * LANES), LANES);
        for (int64_t t = 0; t < n; ++t)
            std::memcpy(
                cache.values + t * d_kv, kv + t * stride + inner, d_kv * sizeof(float));
    });
}

// p: qkv [rows, 3 inner], out [rows, inner], keys, values (the layer's own cache),
//    bias [heads, length] by distance: column length - 1 - (query - key).
// n: heads, d_kv, length.
void attend_self(const Op& op, const Team& team) {
    const int64_t heads = op.n[0], d_kv = op.n[1], length = op.n[2], inner = heads * d_kv;
    team.share(0, team.step.rows * heads, [&](int64_t i) {
        const int64_t sequence = i / heads, head = i % heads;
        const int64_t position = team.step.positions[sequence];
        float* scores = team.scratch(round_up(position + 1));
        if (scores == nullptr) return;
        Rows<float> cache(op, 2, team.step.target_rows[sequence], head, heads, d_kv, length);
        const float* q = static_cast<const float*>(op.p[0]) + sequence * 3 * inner + head * d_kv;
        for (int64_t d = 0; d < d_kv; ++d) cache.key(position, d, d_kv) = q[inner + d];
        std::memcpy(cache.values + position * d_kv, q + 2 * inner, d_kv * sizeof(float));
        const float* bias =
            static_cast<const float*>(op.p[4]) + head * length + length - 1 - position;
        attend_cache<1>(
            q, 0, cache, d_kv, position + 1, bias, scores,
            static_cast<float*>(op.p[1]) + sequence * inner + head * d_kv);
    });
}

// How many rows from this one on are taken together: neighbours whose prompts lie in one place. None
// where an earlier row has taken this one.
static int64_t rows_taken_with(const Step& step, int64_t row) {
    const int64_t* const places = step.source_places;
    int64_t first = row, rows = 1;
    while (first > 0 && places[first - 1] == places[row]) --first;
    if ((row - first) % SHARING != 0) return 0;
    while (rows < SHARING && row + rows < step.rows && places[row + rows] == places[row]) ++rows;
    return rows;
}

// p: q [rows, inner], out [rows, inner], keys, values (the layer's cross-attention cache).
// n: heads, d_kv, length.
void attend_cross(const Op& op, const Team& team) {
    const int64_t heads = op.n[0], d_kv = op.n[1], length = op.n[2], inner = heads * d_kv;
    team.share(0, team.step.rows * heads, [&](int64_t i) {
        const int64_t sequence = i / heads, head = i % heads;
        const int64_t rows = rows_taken_with(team.step, sequence);
        if (rows == 0) return;
        const Rows<float> cache(op, 2, team.step.source_places[sequence], head, heads, d_kv, length);
        const int64_t n = team.step.lengths[sequence];
        const int64_t offset = sequence * inner + head * d_kv;
        float* scores = team.scratch(SHARING * round_up(n));
        if (scores == nullptr) return;
        attend_sharing<SHARING>(
            rows, static_cast<const float*>(op.p[0]) + offset, inner, cache, d_kv, n,
            static_cast<const float*>(nullptr), scores, static_cast<float*>(op.p[1]) + offset);
    });
}

// p: keys, values (the layer's own cache).  n: heads, d_kv, length.
// Keys are copied in whole vectors: among them some that both rows have, which are equal.
void copy_rows(const Op& op, const Team& team) {
    const int64_t heads = op.n[0], d_kv = op.n[1], length = op.n[2];
    team.share(0, team.step.rows * heads, [&](int64_t i) {
        const int64_t copy = i / heads, head = i % heads;
        const int64_t tokens = team.step.positions[copy];
        const int64_t first = team.step.lengths[copy] / LANES * LANES;
        if (first >= tokens) return;
        const Rows<const float> from(
            op, 0, team.step.source_places[copy], head, heads, d_kv, length);
        const Rows<float> to(op, 0, team.step.target_rows[copy], head, heads, d_kv, length);
        const int64_t skipped = first * d_kv;
        std::memcpy(
            to.keys + skipped, from.keys + skipped,
            (round_up(tokens) - first) * d_kv * sizeof(float));
        std::memcpy(
            to.values + skipped, from.values + skipped, (tokens - first) * d_kv * sizeof(float));
    });
}

}  // namespace jl
