// Vectors of 16 floats: loads with a tail, exp, the small product that attention and the dense deltas
// are made of, and the comparisons and wide sums of sampling.
#pragma once

#include <immintrin.h>

#include <cstdint>
#include <cstdlib>

namespace jl {

using vec = __m512;

inline __mmask16 tail_mask(int64_t left) {  // the lanes of a vector of which `left` floats remain
    return left >= 16 ? 0xFFFF : left <= 0 ? 0 : static_cast<__mmask16>((1u << left) - 1);
}

// e^x, within 2 units in the last place. Below -87.3 it gives 0 and above 88.7 a large number; NaN
// stays NaN. Cody and Waite's reduction to |r| <= ln(2) / 2, then the Taylor polynomial of order 6.
inline vec exp_ps(vec x) {
    const vec low = _mm512_set1_ps(-87.336544f), high = _mm512_set1_ps(88.722839f);
    const __mmask16 tiny = _mm512_cmp_ps_mask(x, low, _CMP_LT_OQ);
    x = _mm512_max_ps(low, _mm512_min_ps(high, x));  // NaN is the second operand, and survives
    const vec n = _mm512_roundscale_ps(
        _mm512_mul_ps(x, _mm512_set1_ps(1.44269504f)), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    vec r = _mm512_fnmadd_ps(n, _mm512_set1_ps(0.693359375f), x);
    r = _mm512_fnmadd_ps(n, _mm512_set1_ps(-2.12194440e-4f), r);
    vec p = _mm512_set1_ps(1.0f / 720);
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f / 120));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f / 24));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f / 6));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(0.5f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f));
    return _mm512_mask_mov_ps(_mm512_scalef_ps(p, n), tiny, _mm512_setzero_ps());
}

// C[r][j] = sum over k of a[r * lda + k] * b[k * ldb + j], k ascending, for R rows and NV vectors
// of columns; the last vector of b is read under `last`.
template <int R, int NV>
inline void small_product(
    const float* a, int64_t lda, const float* b, int64_t ldb, int64_t depth, __mmask16 last,
    vec (&c)[R][NV]) {
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
        for (int v = 0; v < NV; ++v) c[r][v] = _mm512_setzero_ps();
    for (int64_t k = 0; k < depth; ++k, b += ldb) {
        vec column[NV];
#pragma GCC unroll 8
        for (int v = 0; v < NV; ++v)
            column[v] = v + 1 < NV ? _mm512_loadu_ps(b + 16 * v)
                                   : _mm512_maskz_loadu_ps(last, b + 16 * v);
#pragma GCC unroll 8
        for (int r = 0; r < R; ++r) {
            const vec scalar = _mm512_set1_ps(a[r * lda + k]);
#pragma GCC unroll 8
            for (int v = 0; v < NV; ++v) c[r][v] = _mm512_fmadd_ps(scalar, column[v], c[r][v]);
        }
    }
}

// A 16 x 16 tile turned over its diagonal, in registers.
inline void transpose(vec (&t)[16]) {
    __m512i a[16], b[16];
    for (int i = 0; i < 16; ++i) a[i] = _mm512_castps_si512(t[i]);
    for (int i = 0; i < 16; i += 2) {
        b[i] = _mm512_unpacklo_epi32(a[i], a[i + 1]);
        b[i + 1] = _mm512_unpackhi_epi32(a[i], a[i + 1]);
    }
    for (int i = 0; i < 16; i += 4)
        for (int j = 0; j < 2; ++j) {
            a[i + 2 * j] = _mm512_unpacklo_epi64(b[i + j], b[i + 2 + j]);
            a[i + 2 * j + 1] = _mm512_unpackhi_epi64(b[i + j], b[i + 2 + j]);
        }
    for (int i = 0; i < 16; i += 8)
        for (int j = 0; j < 4; ++j) {
            b[i + j] = _mm512_shuffle_i32x4(a[i + j], a[i + 4 + j], 0x88);
            b[i + 4 + j] = _mm512_shuffle_i32x4(a[i + j], a[i + 4 + j], 0xDD);
        }
    for (int j = 0; j < 8; ++j) {
        t[j] = _mm512_castsi512_ps(_mm512_shuffle_i32x4(b[j], b[8 + j], 0x88));
        t[8 + j] = _mm512_castsi512_ps(_mm512_shuffle_i32x4(b[j], b[8 + j], 0xDD));
    }
}

// to[c][r] = from[r][c] for a tile of rows x columns, each at most 16; missing rows become zeros.
inline void transpose_tile(
    const float* from, int64_t from_stride, int64_t rows, int64_t columns, float* to,
    int64_t to_stride) {
    vec t[16];
    const __mmask16 mask = tail_mask(columns);
    for (int r = 0; r < 16; ++r)
        t[r] = r < rows ? _mm512_maskz_loadu_ps(mask, from + r * from_stride)
                        : _mm512_setzero_ps();
    transpose(t);
    for (int c = 0; c < columns; ++c) _mm512_storeu_ps(to + c * to_stride, t[c]);
}

// -- what kernels are written with that do not name an instruction set

inline vec fill(float value) { return _mm512_set1_ps(value); }
inline vec load(const float* from) { return _mm512_loadu_ps(from); }
inline void store(float* to, vec value) { _mm512_storeu_ps(to, value); }

// 16 floats of which `left` remain; in place of the others stands `rest`.
inline vec load_or(const float* from, int64_t left, float rest) {
    return _mm512_mask_loadu_ps(fill(rest), tail_mask(left), from);
}
inline void store_some(float* to, int64_t left, vec value) {  // the first `left` lanes
    _mm512_mask_storeu_ps(to, tail_mask(left), value);
}

inline vec plus(vec a, vec b) { return _mm512_add_ps(a, b); }
inline vec minus(vec a, vec b) { return _mm512_sub_ps(a, b); }
inline vec times(vec a, vec b) { return _mm512_mul_ps(a, b); }
inline vec over(vec a, vec b) { return _mm512_div_ps(a, b); }
inline vec fused(vec a, vec b, vec c) { return _mm512_fmadd_ps(a, b, c); }  // a b + c, rounded once
inline float sum_lanes(vec value) { return _mm512_reduce_add_ps(value); }

// -- comparisons

using lanes = __mmask16;  // one bit a lane

inline vec higher(vec a, vec b) { return _mm512_max_ps(a, b); }
inline float highest_lane(vec value) { return _mm512_reduce_max_ps(value); }
inline lanes above(vec a, vec b) { return _mm512_cmp_ps_mask(a, b, _CMP_GT_OQ); }
inline lanes equal(vec a, vec b) { return _mm512_cmp_ps_mask(a, b, _CMP_EQ_OQ); }
inline lanes unordered(vec a) { return _mm512_cmp_ps_mask(a, a, _CMP_UNORD_Q); }

// `a` in the lanes of `which`, `b` in the others.
inline vec choose_lanes(lanes which, vec a, vec b) { return _mm512_mask_blend_ps(which, b, a); }

// -- sampling: what comparisons keep, and sums in double

// The lanes of `which` side by side, from `from` to `to`, which has room for 16 and may lie before it.
inline void pack_lanes(float* to, lanes which, const float* from) {
    _mm512_storeu_ps(to, _mm512_maskz_compress_ps(which, _mm512_loadu_ps(from)));
}
inline void pack_lanes(int32_t* to, lanes which, const int32_t* from) {
    _mm512_storeu_si512(to, _mm512_maskz_compress_epi32(which, _mm512_loadu_si512(from)));
}

struct wide {  // 16 doubles
    __m512d low, high;
};

inline wide load_wide(const double* from) {
    return {_mm512_loadu_pd(from), _mm512_loadu_pd(from + 8)};
}
inline void store_wide(double* to, wide value) {
    _mm512_storeu_pd(to, value.low);
    _mm512_storeu_pd(to + 8, value.high);
}
inline void pack_lanes(double* to, lanes which, const double* from) {
    const wide value = load_wide(from);
    const __mmask8 low = which & 0xFF, high = which >> 8;
    _mm512_storeu_pd(to, _mm512_maskz_compress_pd(low, value.low));
    _mm512_storeu_pd(to + __builtin_popcount(low), _mm512_maskz_compress_pd(high, value.high));
}
inline wide fill_wide(double value) { return {_mm512_set1_pd(value), _mm512_set1_pd(value)}; }
inline wide widen(vec value) {
    return {
        _mm512_cvtps_pd(_mm512_castps512_ps256(value)),
        _mm512_cvtps_pd(_mm512_extractf32x8_ps(value, 1))};
}
inline wide plus(wide a, wide b) {
    return {_mm512_add_pd(a.low, b.low), _mm512_add_pd(a.high, b.high)};
}
inline wide minus(wide a, wide b) {
    return {_mm512_sub_pd(a.low, b.low), _mm512_sub_pd(a.high, b.high)};
}
inline wide times(wide a, wide b) {
    return {_mm512_mul_pd(a.low, b.low), _mm512_mul_pd(a.high, b.high)};
}
inline double sum_lanes(wide value) {
    return _mm512_reduce_add_pd(_mm512_add_pd(value.low, value.high));
}

// e^x for x <= 0, to about one unit in the last place of a double; below -708 it gives 0.
inline __m512d exp_pd(__m512d x) {
    const __m512d low = _mm512_set1_pd(-708.0);
    const __mmask8 tiny = _mm512_cmp_pd_mask(x, low, _CMP_LT_OQ);
    x = _mm512_max_pd(low, x);
    const __m512d n = _mm512_roundscale_pd(
        _mm512_mul_pd(x, _mm512_set1_pd(1.4426950408889634)),
        _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    __m512d r = _mm512_fnmadd_pd(n, _mm512_set1_pd(6.93147180369123816490e-01), x);
    r = _mm512_fnmadd_pd(n, _mm512_set1_pd(1.90821492927058770002e-10), r);
    // Taylor: |r| <= ln(2) / 2, where the term of order 14 is below 2^-57.
    __m512d p = _mm512_set1_pd(1.0 / 6227020800);
    constexpr double TERMS[] = {1.0 / 479001600, 1.0 / 39916800, 1.0 / 3628800, 1.0 / 362880,
                                1.0 / 40320,     1.0 / 5040,     1.0 / 720,     1.0 / 120,
                                1.0 / 24,        1.0 / 6,        0.5,           1.0, 1.0};
#pragma GCC unroll 13
    for (const double term : TERMS) p = _mm512_fmadd_pd(p, r, _mm512_set1_pd(term));
    return _mm512_maskz_mov_pd(static_cast<__mmask8>(~tiny), _mm512_scalef_pd(p, n));
}
inline wide exp_wide(wide x) { return {exp_pd(x.low), exp_pd(x.high)}; }

// A thread's own scratch, grown on demand and aligned to cache lines. It is no thread_local variable:
// glibc ends the process when there is no memory for one of those.
class Scratch {
  public:
    Scratch() = default;
    Scratch(const Scratch&) = delete;
    Scratch& operator=(const Scratch&) = delete;
    ~Scratch() { std::free(data_); }

    // At least `count` floats; null where there is no memory for them.
    float* floats(int64_t count) {
        if (count > capacity_) {
            std::free(data_);
            capacity_ = 0;  // also if there is no memory now: a later step tries again
            const int64_t wanted = (count + 1023) / 1024 * 1024;
            data_ = static_cast<float*>(std::aligned_alloc(64, wanted * sizeof(float)));
            if (data_ == nullptr) return nullptr;
            capacity_ = wanted;
        }
        return data_;
    }

  private:
    float* data_ = nullptr;
    int64_t capacity_ = 0;
};

}  // namespace jl
