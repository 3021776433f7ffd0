// Attention: inside prompts for the encoder, over cache rows for the decoder. T5 does not scale the
// scores; position biases come from tables by distance.
//
// A row's own keys and values lie in its row of the target caches, its prompt's in a place of the
// source caches. Caches of one layer: keys [row][head][length / 16][d_kv][16], so that the keys a
// row really has are one stream of memory and 16 scores come out of one vector; values
// [row][head][length][d_kv]. Source caches may be float16: a decode reads all of them in each step,
// as many bytes as half of int8 weights.
#include <cmath>
#include <cstring>

#include "run.h"
#include "simd.h"

namespace jl {

namespace {

int64_t round_up(int64_t n) { return (n + LANES - 1) / LANES * LANES; }

// scores[0..n) become e^(s - max); returns what they sum up to. Lanes past n are zeroed.
float exponentiate(float* scores, int64_t n) {
    vec highest = fill(-INFINITY);
    for (int64_t j = 0; j < n; j += LANES)
        highest = higher(highest, load_or(scores + j, n - j, -INFINITY));
    const vec top = fill(highest_lane(highest));
    vec total = fill(0);
    for (int64_t j = 0; j < n; j += LANES) {  // what is not there is e^-infinity
        const vec e = exp_ps(minus(load_or(scores + j, n - j, -INFINITY), top));
        store(scores + j, e);
        total = plus(total, e);
    }
    return sum_lanes(total);
}

// out[r] = the values [n, d_kv], weighted by scores[r], over the total of these weights.
template <int R, typename T>
void mean_values(
    const float* scores, int64_t width, const float (&total)[R], const T* values,
    int64_t stride, int64_t n, int64_t d_kv, float* out, int64_t apart) {
    constexpr int WIDE = columns_of<R>();
    const auto some = [&]<int NV>(int64_t d) {
        vec c[R][NV];
        const int64_t left = d_kv - d - LANES * (NV - 1);
        small_product<R, NV>(scores, width, values + d, stride, n, left, c);
#pragma GCC unroll 8
        for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
            for (int v = 0; v < NV; ++v)
                store_some(
                    out + r * apart + d + LANES * v, d_kv - d - LANES * v,
                    over(c[r][v], fill(total[r])));
    };
    int64_t d = 0;
    for (; d + WIDE * LANES <= d_kv; d += WIDE * LANES) some.template operator()<WIDE>(d);
    for (; d < d_kv; d += LANES) some.template operator()<1>(d);
}

constexpr int QUERIES = 6;                        // of a prompt, taken together
constexpr int KEYS = columns_of<QUERIES>();       // vectors of their keys
constexpr int64_t WIDTH = 4 * LANES;              // keys are padded with zeros to whole ones

// One head of a prompt: R queries from `first` on over all n tokens.
template <int R>
void attend_block(
    const float* qkv, int64_t stride, int64_t inner, int64_t d_kv, const float* keys,
    int64_t width, const float* bias, int64_t first, int64_t n, float* scores, float* out) {
    for (int64_t j = 0; j < n; j += KEYS * LANES) {
        vec c[R][KEYS];
        small_product<R, KEYS>(qkv + first * stride, stride, keys + j, width, d_kv, LANES, c);
#pragma GCC unroll 8
        for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
            for (int v = 0; v < KEYS; ++v) {
                const int64_t key = j + LANES * v;
                const vec at = load_some(bias + key - (first + r), n - key);
                store(scores + r * width + key, plus(c[r][v], at));
            }
    }
    float total[R];
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) total[r] = exponentiate(scores + r * width, n);
    mean_values<R>(
        scores, width, total, qkv + 2 * inner, stride, n, d_kv, out + first * inner, inner);
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
    Rows(T* keys, T* values) : keys(keys), values(values) {}
    T& key(int64_t position, int64_t d, int64_t d_kv) {
        return keys[(position / LANES * d_kv + d) * LANES + position % LANES];
    }
};

// R queries over `n` tokens of one cache row, each query and its out [d_kv] `apart` from the next;
// scores is scratch for R times n, rounded up. `bias`, the same for all of them, may be null.
template <int R, typename T>
void attend_cache(
    const float* q, int64_t apart, const Rows<T>& cache, int64_t d_kv, int64_t n,
    const float* bias, float* scores, float* out) {
    constexpr int WIDE = columns_of<R>();
    const int64_t width = round_up(n);
    const auto score = [&]<int G>(int64_t j) {  // of G vectors of keys
        vec c[R][G];
#pragma GCC unroll 8
        for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
            for (int g = 0; g < G; ++g) c[r][g] = fill(0);
        const T* keys = cache.keys + j * d_kv;
        for (int64_t d = 0; d < d_kv; ++d) {
            vec key[G];
#pragma GCC unroll 8
            for (int g = 0; g < G; ++g) key[g] = load(keys + (g * d_kv + d) * LANES);
#pragma GCC unroll 8
            for (int r = 0; r < R; ++r) {
                const vec scalar = fill(q[r * apart + d]);
#pragma GCC unroll 8
                for (int g = 0; g < G; ++g) c[r][g] = fused(scalar, key[g], c[r][g]);
            }
        }
#pragma GCC unroll 8
        for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
            for (int g = 0; g < G; ++g) {
                const int64_t at = j + g * LANES;
                if (bias != nullptr) c[r][g] = plus(c[r][g], load_some(bias + at, n - at));
                store(scores + r * width + at, c[r][g]);
            }
    };
    int64_t j = 0;
    for (; j + (WIDE - 1) * LANES < n; j += WIDE * LANES) score.template operator()<WIDE>(j);
    if (WIDE > 2 && j + LANES < n) {
        score.template operator()<2>(j);
        j += 2 * LANES;
    }
    for (; j < n; j += LANES) score.template operator()<1>(j);
    float total[R];
    for (int r = 0; r < R; ++r) total[r] = exponentiate(scores + r * width, n);
    mean_values<R>(scores, width, total, cache.values, d_kv, n, d_kv, out, apart);
}

constexpr int SHARING = 4;  // neighbouring rows of one prompt that are taken together: a beam's

template <int R, typename T, typename... Args>
void attend_sharing(int64_t rows, Args... args) {
    if (rows == R) return attend_cache<R, T>(args...);
    if constexpr (R > 1) attend_sharing<R - 1, T>(rows, args...);
}

constexpr float MOST_OF_HALF = 65504;  // the highest float16: what is above becomes it

void keep(float* to, int64_t left, vec value) { store_some(to, left, value); }
// What is infinite becomes NaN: a broken row must not look sound.
void keep(half* to, int64_t left, vec value) {
    value = plus(value, minus(value, value));
    store_f16(to, left, higher(fill(-MOST_OF_HALF), lower(fill(MOST_OF_HALF), value)));
}

template <typename T>
void store_prompt(const Op& op, const Step& step, int64_t sequence, int64_t head) {
    const int64_t heads = op.n[0], d_kv = op.n[1], length = op.n[2], inner = heads * d_kv;
    const Rows<T> cache(op, 1, step.source_places[sequence], head, heads, d_kv, length);
    const int64_t n = step.lengths[sequence], stride = 2 * inner;
    const float* kv =
        static_cast<const float*>(op.p[0]) + step.starts[sequence] * stride + head * d_kv;
    for (int64_t t = 0; t < n; t += LANES)
        for (int64_t d = 0; d < d_kv; d += LANES) {
            alignas(64) float tile[LANES * LANES];
            const int64_t columns = std::min(LANES, d_kv - d);
            transpose_tile(
                kv + t * stride + d, stride, std::min(LANES, n - t), columns, tile, LANES);
            for (int64_t c = 0; c < columns; ++c)
                keep(cache.keys + t * d_kv + (d + c) * LANES, LANES, load(tile + c * LANES));
        }
    for (int64_t t = 0; t < n; ++t)
        for (int64_t d = 0; d < d_kv; d += LANES)
            keep(
                cache.values + t * d_kv + d, d_kv - d,
                load_some(kv + t * stride + inner + d, d_kv - d));
}

template <typename T>
void attend_source(const Op& op, const Team& team, int64_t sequence, int64_t head, int64_t rows) {
    const int64_t heads = op.n[0], d_kv = op.n[1], length = op.n[2], inner = heads * d_kv;
    const Rows<T> cache(op, 2, team.step.source_places[sequence], head, heads, d_kv, length);
    const int64_t n = team.step.lengths[sequence], offset = sequence * inner + head * d_kv;
    float* scores = team.scratch(SHARING * round_up(n));
    if (scores == nullptr) return;
    attend_sharing<SHARING, T>(
        rows, static_cast<const float*>(op.p[0]) + offset, inner, cache, d_kv, n,
        static_cast<const float*>(nullptr), scores, static_cast<float*>(op.p[1]) + offset);
}

}  // namespace

// p: qkv [rows, 3 inner], out [rows, inner], bias [heads, 2 longest - 1] by key minus query.
// n: heads, d_kv, longest.
void attend_prompts(const Op& op, const Team& team) {
    const int64_t heads = op.n[0], d_kv = op.n[1], longest = op.n[2], inner = heads * d_kv;
    const int64_t stride = 3 * inner;
    team.share(0, team.step.sequences * heads, [&](int64_t i) {
        const int64_t sequence = i / heads, head = i % heads;
        const int64_t n = team.step.lengths[sequence], width = (n + WIDTH - 1) / WIDTH * WIDTH;
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

// p: kv [rows, 2 inner], keys, values (the layer's cross-attention cache).
// n: heads, d_kv, length, whether the cache is float16.
void store_source(const Op& op, const Team& team) {
    const int64_t heads = op.n[0];
    team.share(0, team.step.sequences * heads, [&](int64_t i) {
        if (op.n[3]) return store_prompt<half>(op, team.step, i / heads, i % heads);
        store_prompt<float>(op, team.step, i / heads, i % heads);
    });
}

// The rows of a node's path, or null where the row is no node.
static const int64_t* path_of(const Step& step, int64_t row) {
    if (step.paths_at == nullptr || step.paths_at[row] < 0) return nullptr;
    return step.paths + step.paths_at[row];
}

// p: qkv [rows, 3 inner], out [rows, inner], keys, values (the layer's own cache),
//    bias [heads, length] by distance: column length - 1 - (query - key).
// n: heads, d_kv, length.
// A node of a trie finds the keys and values of its path in qkv, and leaves the cache alone.
void attend_self(const Op& op, const Team& team) {
    const int64_t heads = op.n[0], d_kv = op.n[1], length = op.n[2], inner = heads * d_kv;
    team.share(0, team.step.rows * heads, [&](int64_t i) {
        const int64_t sequence = i / heads, head = i % heads;
        const int64_t position = team.step.positions[sequence], width = round_up(position + 1);
        const int64_t* const path = path_of(team.step, sequence);
        // A node's cache is made here: keys, values, and room that a vector may read beyond them.
        const int64_t own = path == nullptr ? 0 : 2 * width * d_kv + LANES;
        float* scores = team.scratch(width + own);
        if (scores == nullptr) return;
        Rows<float> cache(scores + width, scores + width * (1 + d_kv));
        const auto append = [&](int64_t at, const float* q) {
            for (int64_t d = 0; d < d_kv; ++d) cache.key(at, d, d_kv) = q[inner + d];
            std::memcpy(cache.values + at * d_kv, q + 2 * inner, d_kv * sizeof(float));
        };
        const float* qkv = static_cast<const float*>(op.p[0]) + head * d_kv;
        const float* q = qkv + sequence * 3 * inner;
        if (path == nullptr) {
            const int64_t row = team.step.target_rows[sequence];
            cache = Rows<float>(op, 2, row, head, heads, d_kv, length);
            append(position, q);
        } else {
            for (int64_t at = 0; at <= position; ++at) append(at, qkv + path[at] * 3 * inner);
        }
        const float* bias =
            static_cast<const float*>(op.p[4]) + head * length + length - 1 - position;
        attend_cache<1, float>(
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
// n: heads, d_kv, length, whether the cache is float16.
void attend_cross(const Op& op, const Team& team) {
    const int64_t heads = op.n[0];
    team.share(0, team.step.rows * heads, [&](int64_t i) {
        const int64_t sequence = i / heads, head = i % heads;
        const int64_t rows = rows_taken_with(team.step, sequence);
        if (rows == 0) return;
        if (op.n[3]) return attend_source<half>(op, team, sequence, head, rows);
        attend_source<float>(op, team, sequence, head, rows);
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
