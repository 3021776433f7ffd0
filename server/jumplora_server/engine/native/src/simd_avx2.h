// Vectors on AVX2, FMA and F16C, with AVX-VNNI where the compiler may use it. What each function
// promises is said in simd.h.
#pragma once

#include <immintrin.h>

#include <cstdint>
#include <cstring>

namespace jl {

constexpr int VECTORS = 8;  // of two registers each

struct vec {
    __m256 low, high;
};
using lanes = uint16_t;

inline void relax() { _mm_pause(); }

inline lanes tail_mask(int64_t left) {
    return left >= 16 ? 0xFFFF : left <= 0 ? 0 : static_cast<lanes>((1u << left) - 1);
}

// -- moving

inline vec fill(float value) { return {_mm256_set1_ps(value), _mm256_set1_ps(value)}; }
inline vec load(const float* from) { return {_mm256_loadu_ps(from), _mm256_loadu_ps(from + 8)}; }
inline void store(float* to, vec value) {
    _mm256_storeu_ps(to, value.low);
    _mm256_storeu_ps(to + 8, value.high);
}

// 16 masks of 32 bits, of which the first `left`, here less than 16, are set.
struct Masks {
    __m256i low, high;
};
inline Masks masks(int64_t left) {
    alignas(64) static constexpr int32_t SET[32] = {-1, -1, -1, -1, -1, -1, -1, -1,
                                                    -1, -1, -1, -1, -1, -1, -1, -1};
    const int32_t* from = SET + (left <= 0 ? 16 : 16 - left);
    return {_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)),
            _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from + 8))};
}

// Whole vectors go another way: AMD processors take tens of cycles for a masked store.
inline vec load_some(const float* from, int64_t left) {
    if (left >= 16) return load(from);
    const Masks some = masks(left);
    return {_mm256_maskload_ps(from, some.low), _mm256_maskload_ps(from + 8, some.high)};
}
inline vec load_or(const float* from, int64_t left, float rest) {
    if (left >= 16) return load(from);
    const Masks some = masks(left);
    const __m256 other = _mm256_set1_ps(rest);
    const vec found = {_mm256_maskload_ps(from, some.low),
                       _mm256_maskload_ps(from + 8, some.high)};
    return {_mm256_blendv_ps(other, found.low, _mm256_castsi256_ps(some.low)),
            _mm256_blendv_ps(other, found.high, _mm256_castsi256_ps(some.high))};
}
inline void store_some(float* to, int64_t left, vec value) {
    if (left >= 16) return store(to, value);
    const Masks some = masks(left);
    _mm256_maskstore_ps(to, some.low, value.low);
    _mm256_maskstore_ps(to + 8, some.high, value.high);
}

// 16 numbers of 16 bits. Of some the pairs come first, then the last one, which may be in a pair.
inline __m256i load_halves(const uint16_t* from, int64_t left) {
    if (left >= 16) return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from));
    if (left <= 0) return _mm256_setzero_si256();
    alignas(64) static constexpr uint16_t LAST[32] = {0, 0, 0, 0, 0, 0, 0, 0,
                                                      0, 0, 0, 0, 0, 0, 0, 0xFFFF};
    const __m256i pairs =
        _mm256_maskload_epi32(reinterpret_cast<const int*>(from), masks(left / 2).low);
    const __m256i last = _mm256_and_si256(
        _mm256_set1_epi16(static_cast<int16_t>(from[left - 1])),
        _mm256_loadu_si256(reinterpret_cast<const __m256i*>(LAST + 16 - left)));
    return _mm256_or_si256(pairs, last);
}
inline vec load_f16(const uint16_t* from, int64_t left) {
    const __m256i half = load_halves(from, left);
    return {_mm256_cvtph_ps(_mm256_castsi256_si128(half)),
            _mm256_cvtph_ps(_mm256_extracti128_si256(half, 1))};
}
inline vec load_bf16(const uint16_t* from, int64_t left) {
    const __m256i half = load_halves(from, left);
    const __m256i low = _mm256_cvtepu16_epi32(_mm256_castsi256_si128(half));
    const __m256i high = _mm256_cvtepu16_epi32(_mm256_extracti128_si256(half, 1));
    return {_mm256_castsi256_ps(_mm256_slli_epi32(low, 16)),
            _mm256_castsi256_ps(_mm256_slli_epi32(high, 16))};
}

inline void transpose_quarter(__m256 (&t)[8]) {
    __m256 a[8], b[8];
    for (int i = 0; i < 8; i += 2) {
        a[i] = _mm256_unpacklo_ps(t[i], t[i + 1]);
        a[i + 1] = _mm256_unpackhi_ps(t[i], t[i + 1]);
    }
    for (int i = 0; i < 8; i += 4)
        for (int j = 0; j < 2; ++j) {
            b[i + 2 * j] = _mm256_shuffle_ps(a[i + j], a[i + 2 + j], 0x44);
            b[i + 2 * j + 1] = _mm256_shuffle_ps(a[i + j], a[i + 2 + j], 0xEE);
        }
    for (int j = 0; j < 4; ++j) {
        t[j] = _mm256_permute2f128_ps(b[j], b[4 + j], 0x20);
        t[4 + j] = _mm256_permute2f128_ps(b[j], b[4 + j], 0x31);
    }
}
inline void store_f16(uint16_t* to, int64_t left, vec value) {
    constexpr int EVEN = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
    const __m256i found =
        _mm256_set_m128i(_mm256_cvtps_ph(value.high, EVEN), _mm256_cvtps_ph(value.low, EVEN));
    if (left >= 16) return _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), found);
    alignas(32) uint16_t all[16];
    _mm256_store_si256(reinterpret_cast<__m256i*>(all), found);
    if (left > 0) std::memcpy(to, all, left * sizeof(uint16_t));
}

inline void transpose(vec (&t)[16]) {
    for (int first = 0; first < 16; first += 8) {  // each half's rows become halves of columns
        __m256 low[8], high[8];
        for (int i = 0; i < 8; ++i) {
            low[i] = t[first + i].low;
            high[i] = t[first + i].high;
        }
        transpose_quarter(low);
        transpose_quarter(high);
        for (int i = 0; i < 8; ++i) t[first + i] = {low[i], high[i]};
    }
    for (int i = 0; i < 8; ++i) {
        const __m256 other = t[i].high;
        t[i].high = t[8 + i].low;
        t[8 + i].low = other;
    }
}

// -- arithmetic

inline vec plus(vec a, vec b) { return {a.low + b.low, a.high + b.high}; }
inline vec minus(vec a, vec b) { return {a.low - b.low, a.high - b.high}; }
inline vec times(vec a, vec b) { return {a.low * b.low, a.high * b.high}; }
inline vec over(vec a, vec b) { return {a.low / b.low, a.high / b.high}; }
inline vec fused(vec a, vec b, vec c) {
    return {_mm256_fmadd_ps(a.low, b.low, c.low), _mm256_fmadd_ps(a.high, b.high, c.high)};
}
inline vec fused_off(vec a, vec b, vec c) {
    return {_mm256_fnmadd_ps(a.low, b.low, c.low), _mm256_fnmadd_ps(a.high, b.high, c.high)};
}
inline vec magnitude(vec a) {
    const __m256 sign = _mm256_set1_ps(-0.0f);
    return {_mm256_andnot_ps(sign, a.low), _mm256_andnot_ps(sign, a.high)};
}
inline vec higher(vec a, vec b) {
    return {_mm256_max_ps(a.low, b.low), _mm256_max_ps(a.high, b.high)};
}
inline vec lower(vec a, vec b) {
    return {_mm256_min_ps(a.low, b.low), _mm256_min_ps(a.high, b.high)};
}
inline vec nearest(vec a) {
    constexpr int EVEN = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
    return {_mm256_round_ps(a.low, EVEN), _mm256_round_ps(a.high, EVEN)};
}

// In two factors: from n = -126 to 128 the first product is exact, and the second is rounded.
inline __m256 times_power(__m256 a, __m256 n) {
    const __m256i all = _mm256_cvtps_epi32(n), half = _mm256_srai_epi32(all, 1);
    const auto power = [](__m256i exponent) {
        const __m256i biased = _mm256_add_epi32(exponent, _mm256_set1_epi32(127));
        return _mm256_castsi256_ps(_mm256_slli_epi32(biased, 23));
    };
    return a * power(half) * power(_mm256_sub_epi32(all, half));
}
inline vec times_power(vec a, vec n) {
    return {times_power(a.low, n.low), times_power(a.high, n.high)};
}

inline float sum_lanes(vec value) {
    const __m256 eight = value.high + value.low;
    const __m128 quarter = _mm256_extractf128_ps(eight, 1) + _mm256_castps256_ps128(eight);
    const __m128 two = quarter + _mm_movehl_ps(quarter, quarter);
    return two[0] + two[1];
}
inline float highest_lane(vec value) {
    const __m256 eight = _mm256_max_ps(value.high, value.low);
    const __m128 quarter =
        _mm_max_ps(_mm256_extractf128_ps(eight, 1), _mm256_castps256_ps128(eight));
    const __m128 two = _mm_max_ps(quarter, _mm_movehl_ps(quarter, quarter));
    return _mm_max_ps(two, _mm_movehdup_ps(two))[0];
}

// -- 4 floats

using four = __m128;

inline four no_four() { return _mm_setzero_ps(); }
inline four load_four(const float* from) { return _mm_loadu_ps(from); }
inline four load_four(const float* from, int64_t left) {
    const __m128i which = _mm_cmpgt_epi32(
        _mm_set1_epi32(static_cast<int32_t>(left)), _mm_setr_epi32(0, 1, 2, 3));
    return _mm_maskload_ps(from, which);
}
inline four fused(four a, four b, four c) { return _mm_fmadd_ps(a, b, c); }
inline float sum_lanes(four a) {
    const four pairs = _mm_add_ps(a, _mm_movehdup_ps(a));
    return _mm_cvtss_f32(_mm_add_ss(pairs, _mm_movehl_ps(pairs, pairs)));
}

// -- comparisons

inline lanes joined(__m256 low, __m256 high) {
    return static_cast<lanes>(_mm256_movemask_ps(low) | _mm256_movemask_ps(high) << 8);
}
inline lanes above(vec a, vec b) {
    return joined(_mm256_cmp_ps(a.low, b.low, _CMP_GT_OQ), _mm256_cmp_ps(a.high, b.high, _CMP_GT_OQ));
}
inline lanes equal(vec a, vec b) {
    return joined(_mm256_cmp_ps(a.low, b.low, _CMP_EQ_OQ), _mm256_cmp_ps(a.high, b.high, _CMP_EQ_OQ));
}
inline lanes unordered(vec a) {
    return joined(
        _mm256_cmp_ps(a.low, a.low, _CMP_UNORD_Q), _mm256_cmp_ps(a.high, a.high, _CMP_UNORD_Q));
}
inline vec where_above(vec a, vec b, vec yes, vec no) {
    return {_mm256_blendv_ps(no.low, yes.low, _mm256_cmp_ps(a.low, b.low, _CMP_GT_OQ)),
            _mm256_blendv_ps(no.high, yes.high, _mm256_cmp_ps(a.high, b.high, _CMP_GT_OQ))};
}

template <typename T>
inline void pack_lanes(T* to, lanes which, const T* from) {
    for (unsigned left = which; left != 0; left &= left - 1) *to++ = from[__builtin_ctz(left)];
}

// -- int8 products

// Typed as what they hold, because GCC keeps an array of __m256i in memory, not in registers.
using eight_ints = int __attribute__((vector_size(32)));

struct ints {
    eight_ints low, high;
};
constexpr int32_t WEIGHT_OFFSET = 128;

#ifdef __AVXVNNI__

struct bytes {
    eight_ints low, high;
};
using quad = int32_t;
constexpr int WEIGHT_VECTORS = 1;

inline quad to_quad(int32_t neighbours) { return neighbours; }
inline bytes load_weights(const uint8_t* from) {
    const auto at = reinterpret_cast<const __m256i*>(from);
    return {(eight_ints)_mm256_load_si256(at), (eight_ints)_mm256_load_si256(at + 1)};
}
inline eight_ints dot(eight_ints sum, eight_ints weights, __m256i x) {
    return (eight_ints)_mm256_dpbusd_avx_epi32((__m256i)sum, (__m256i)weights, x);
}
inline ints dot(ints sum, bytes weights, const quad& x) {
    const __m256i all = _mm256_set1_epi32(x);
    return {dot(sum.low, weights.low, all), dot(sum.high, weights.high, all)};
}

#else

// Products of 8 bits are summed in pairs as 16 bits, which 255 * 127 twice would pass. So the even
// and the odd weights of four become 16 bits each, and their pairs of products 32 bits.
struct bytes {
    eight_ints low_even, low_odd, high_even, high_odd;
};
struct quad {
    int32_t even, odd;  // two int16 each
};
constexpr int WEIGHT_VECTORS = 2;

inline quad to_quad(int32_t neighbours) {
    const auto pair = [neighbours](int first) {
        const int32_t low = static_cast<int8_t>(neighbours >> first);
        return (low & 0xFFFF) | static_cast<int32_t>(
            static_cast<uint32_t>(static_cast<int8_t>(neighbours >> (first + 16))) << 16);
    };
    return {pair(0), pair(8)};
}
inline bytes load_weights(const uint8_t* from) {
    const auto at = reinterpret_cast<const __m256i*>(from);
    const __m256i low = _mm256_load_si256(at), high = _mm256_load_si256(at + 1);
    const __m256i even = _mm256_set1_epi16(0xFF);
    return {(eight_ints)_mm256_and_si256(low, even), (eight_ints)_mm256_srli_epi16(low, 8),
            (eight_ints)_mm256_and_si256(high, even), (eight_ints)_mm256_srli_epi16(high, 8)};
}
inline eight_ints pairs(eight_ints weights, __m256i x) {
    return (eight_ints)_mm256_madd_epi16((__m256i)weights, x);
}
inline ints dot(ints sum, bytes weights, const quad& x) {
    const __m256i even = _mm256_set1_epi32(x.even), odd = _mm256_set1_epi32(x.odd);
    return {sum.low + pairs(weights.low_even, even) + pairs(weights.low_odd, odd),
            sum.high + pairs(weights.high_even, even) + pairs(weights.high_odd, odd)};
}

#endif

inline ints no_ints() { return {eight_ints{}, eight_ints{}}; }
inline ints minus(ints a, int32_t b) { return {a.low - b, a.high - b}; }
inline ints plus(ints a, ints b) { return {a.low + b.low, a.high + b.high}; }
inline vec to_floats(ints a) {
    return {_mm256_cvtepi32_ps((__m256i)a.low), _mm256_cvtepi32_ps((__m256i)a.high)};
}
inline int32_t sum_lanes(ints a) {
    const eight_ints eight = a.low + a.high;
    int32_t sum = 0;
    for (int i = 0; i < 8; ++i) sum += eight[i];
    return sum;
}
inline ints round_to_bytes(vec value, int32_t* four_each) {
    const __m256i pairs =  // lanes 0 to 3, 8 to 11, 4 to 7, 12 to 15
        _mm256_packs_epi32(_mm256_cvtps_epi32(value.low), _mm256_cvtps_epi32(value.high));
    const __m256i shorts = _mm256_permute4x64_epi64(pairs, 0xD8);
    const __m128i narrow =
        _mm_packs_epi16(_mm256_castsi256_si128(shorts), _mm256_extracti128_si256(shorts, 1));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(four_each), narrow);
    return {(eight_ints)_mm256_cvtepi8_epi32(narrow),
            (eight_ints)_mm256_cvtepi8_epi32(_mm_unpackhi_epi64(narrow, narrow))};
}

}  // namespace jl

#include "simd_avx2_wide.h"
