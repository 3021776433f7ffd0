// Vectors on AVX-512 with VNNI. What each function promises is said in simd.h.
#pragma once

#include <immintrin.h>

#include <cstdint>

namespace jl {

constexpr int VECTORS = 32;  // registers

using vec = __m512;
using lanes = uint16_t;

inline void relax() { _mm_pause(); }

inline lanes tail_mask(int64_t left) {
    return left >= 16 ? 0xFFFF : left <= 0 ? 0 : static_cast<lanes>((1u << left) - 1);
}

// -- moving

inline vec fill(float value) { return _mm512_set1_ps(value); }
inline vec load(const float* from) { return _mm512_loadu_ps(from); }
inline void store(float* to, vec value) { _mm512_storeu_ps(to, value); }

inline vec load_some(const float* from, int64_t left) {
    return _mm512_maskz_loadu_ps(tail_mask(left), from);
}
inline vec load_or(const float* from, int64_t left, float rest) {
    return _mm512_mask_loadu_ps(fill(rest), tail_mask(left), from);
}
inline void store_some(float* to, int64_t left, vec value) {
    _mm512_mask_storeu_ps(to, tail_mask(left), value);
}

inline vec load_f16(const uint16_t* from, int64_t left) {
    return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(tail_mask(left), from));
}
inline vec load_bf16(const uint16_t* from, int64_t left) {
    const __m256i half = _mm256_maskz_loadu_epi16(tail_mask(left), from);
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16));
}

inline void store_f16(uint16_t* to, int64_t left, vec value) {
    const __m256i half = _mm512_cvtps_ph(value, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    _mm256_mask_storeu_epi16(to, tail_mask(left), half);
}

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

// -- arithmetic

inline vec plus(vec a, vec b) { return _mm512_add_ps(a, b); }
inline vec minus(vec a, vec b) { return _mm512_sub_ps(a, b); }
inline vec times(vec a, vec b) { return _mm512_mul_ps(a, b); }
inline vec over(vec a, vec b) { return _mm512_div_ps(a, b); }
inline vec fused(vec a, vec b, vec c) { return _mm512_fmadd_ps(a, b, c); }
inline vec fused_off(vec a, vec b, vec c) { return _mm512_fnmadd_ps(a, b, c); }
inline vec magnitude(vec a) { return _mm512_abs_ps(a); }
inline vec higher(vec a, vec b) { return _mm512_max_ps(a, b); }
inline vec lower(vec a, vec b) { return _mm512_min_ps(a, b); }
inline vec nearest(vec a) {
    return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
inline vec times_power(vec a, vec n) { return _mm512_scalef_ps(a, n); }
inline float sum_lanes(vec value) { return _mm512_reduce_add_ps(value); }
inline float highest_lane(vec value) { return _mm512_reduce_max_ps(value); }

// -- 4 floats

using four = __m128;

inline four no_four() { return _mm_setzero_ps(); }
inline four load_four(const float* from) { return _mm_loadu_ps(from); }
inline four load_four(const float* from, int64_t left) {
    const int64_t held = left < 0 ? 0 : left > 4 ? 4 : left;
    return _mm_maskz_loadu_ps(static_cast<__mmask8>((1u << held) - 1), from);
}
inline four fused(four a, four b, four c) { return _mm_fmadd_ps(a, b, c); }
inline float sum_lanes(four a) {
    const four pairs = _mm_add_ps(a, _mm_movehdup_ps(a));
    return _mm_cvtss_f32(_mm_add_ss(pairs, _mm_movehl_ps(pairs, pairs)));
}

// -- comparisons

inline lanes above(vec a, vec b) { return _mm512_cmp_ps_mask(a, b, _CMP_GT_OQ); }
inline lanes equal(vec a, vec b) { return _mm512_cmp_ps_mask(a, b, _CMP_EQ_OQ); }
inline lanes unordered(vec a) { return _mm512_cmp_ps_mask(a, a, _CMP_UNORD_Q); }
inline vec where_above(vec a, vec b, vec yes, vec no) {
    return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(a, b, _CMP_GT_OQ), no, yes);
}

inline void pack_lanes(float* to, lanes which, const float* from) {
    _mm512_storeu_ps(to, _mm512_maskz_compress_ps(which, _mm512_loadu_ps(from)));
}
inline void pack_lanes(int32_t* to, lanes which, const int32_t* from) {
    _mm512_storeu_si512(to, _mm512_maskz_compress_epi32(which, _mm512_loadu_si512(from)));
}
inline void pack_lanes(double* to, lanes which, const double* from) {
    const __mmask8 low = which & 0xFF, high = which >> 8;
    const __m512d first = _mm512_loadu_pd(from), second = _mm512_loadu_pd(from + 8);
    _mm512_storeu_pd(to, _mm512_maskz_compress_pd(low, first));
    _mm512_storeu_pd(to + __builtin_popcount(low), _mm512_maskz_compress_pd(high, second));
}

// -- int8 products

// Typed as what they hold: GCC keeps an array of __m512i in memory, not in registers.
using ints = int __attribute__((vector_size(64)));
using bytes = __m512i;
using quad = int32_t;
constexpr int WEIGHT_VECTORS = 1;
constexpr int32_t WEIGHT_OFFSET = 128;

inline quad to_quad(int32_t four) { return four; }
inline ints no_ints() { return ints{}; }
inline bytes load_weights(const uint8_t* from) { return _mm512_load_si512(from); }
inline ints dot(ints sum, bytes weights, const quad& x) {
    return (ints)_mm512_dpbusd_epi32((__m512i)sum, weights, _mm512_set1_epi32(x));
}
inline ints minus(ints a, int32_t b) { return a - b; }
inline ints plus(ints a, ints b) { return a + b; }
inline vec to_floats(ints a) { return _mm512_cvtepi32_ps((__m512i)a); }
inline int32_t sum_lanes(ints a) { return _mm512_reduce_add_epi32((__m512i)a); }
inline ints round_to_bytes(vec value, int32_t* four_each) {
    const __m128i narrow = _mm512_cvtsepi32_epi8(_mm512_cvtps_epi32(value));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(four_each), narrow);
    return (ints)_mm512_cvtepi8_epi32(narrow);
}

// -- 16 doubles

struct wide {
    __m512d low, high;
};

inline wide load_wide(const double* from) {
    return {_mm512_loadu_pd(from), _mm512_loadu_pd(from + 8)};
}
inline void store_wide(double* to, wide value) {
    _mm512_storeu_pd(to, value.low);
    _mm512_storeu_pd(to + 8, value.high);
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
inline wide fused(wide a, wide b, wide c) {
    return {_mm512_fmadd_pd(a.low, b.low, c.low), _mm512_fmadd_pd(a.high, b.high, c.high)};
}
inline wide fused_off(wide a, wide b, wide c) {
    return {_mm512_fnmadd_pd(a.low, b.low, c.low), _mm512_fnmadd_pd(a.high, b.high, c.high)};
}
inline wide higher(wide a, wide b) {
    return {_mm512_max_pd(a.low, b.low), _mm512_max_pd(a.high, b.high)};
}
inline wide nearest(wide a) {
    constexpr int EVEN = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
    return {_mm512_roundscale_pd(a.low, EVEN), _mm512_roundscale_pd(a.high, EVEN)};
}
inline wide times_power(wide a, wide n) {
    return {_mm512_scalef_pd(a.low, n.low), _mm512_scalef_pd(a.high, n.high)};
}
inline wide where_above(wide a, wide b, wide yes, wide no) {
    const __mmask8 low = _mm512_cmp_pd_mask(a.low, b.low, _CMP_GT_OQ);
    const __mmask8 high = _mm512_cmp_pd_mask(a.high, b.high, _CMP_GT_OQ);
    return {_mm512_mask_blend_pd(low, no.low, yes.low),
            _mm512_mask_blend_pd(high, no.high, yes.high)};
}
inline double sum_lanes(wide value) {
    return _mm512_reduce_add_pd(_mm512_add_pd(value.low, value.high));
}

}  // namespace jl
