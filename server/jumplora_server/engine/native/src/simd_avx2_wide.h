// 16 doubles on AVX2; simd_avx2.h includes it behind its 16 floats.
#pragma once

#include <immintrin.h>

#include <cstdint>

namespace jl {

struct wide {
    __m256d a, b, c, d;
};

// f of each four of them.
template <typename F, typename... W>
inline wide each(F f, const W&... of) {
    return {f(of.a...), f(of.b...), f(of.c...), f(of.d...)};
}

inline wide load_wide(const double* from) {
    return {_mm256_loadu_pd(from), _mm256_loadu_pd(from + 4), _mm256_loadu_pd(from + 8),
            _mm256_loadu_pd(from + 12)};
}
inline void store_wide(double* to, wide value) {
    _mm256_storeu_pd(to, value.a);
    _mm256_storeu_pd(to + 4, value.b);
    _mm256_storeu_pd(to + 8, value.c);
    _mm256_storeu_pd(to + 12, value.d);
}
inline wide fill_wide(double value) {
    const __m256d all = _mm256_set1_pd(value);
    return {all, all, all, all};
}
inline wide widen(vec value) {
    return {_mm256_cvtps_pd(_mm256_castps256_ps128(value.low)),
            _mm256_cvtps_pd(_mm256_extractf128_ps(value.low, 1)),
            _mm256_cvtps_pd(_mm256_castps256_ps128(value.high)),
            _mm256_cvtps_pd(_mm256_extractf128_ps(value.high, 1))};
}
inline wide plus(wide a, wide b) {
    return {a.a + b.a, a.b + b.b, a.c + b.c, a.d + b.d};
}
inline wide minus(wide a, wide b) {
    return {a.a - b.a, a.b - b.b, a.c - b.c, a.d - b.d};
}
inline wide times(wide a, wide b) {
    return {a.a * b.a, a.b * b.b, a.c * b.c, a.d * b.d};
}
inline wide fused(wide a, wide b, wide c) {
    return each([](auto x, auto y, auto z) { return _mm256_fmadd_pd(x, y, z); }, a, b, c);
}
inline wide fused_off(wide a, wide b, wide c) {
    return each([](auto x, auto y, auto z) { return _mm256_fnmadd_pd(x, y, z); }, a, b, c);
}
inline wide higher(wide a, wide b) {
    return each([](auto x, auto y) { return _mm256_max_pd(x, y); }, a, b);
}
inline wide nearest(wide a) {
    const auto round = [](auto x) {
        return _mm256_round_pd(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    };
    return each(round, a);
}

// As with floats, from n = -1022 to 1024.
inline wide times_power(wide a, wide n) {
    const auto power = [](__m128i exponent) {
        const __m128i biased = _mm_add_epi32(exponent, _mm_set1_epi32(1023));
        return _mm256_castsi256_pd(_mm256_slli_epi64(_mm256_cvtepi32_epi64(biased), 52));
    };
    const auto scale = [&](__m256d x, __m256d y) {
        const __m128i all = _mm256_cvtpd_epi32(y), half = _mm_srai_epi32(all, 1);
        return x * power(half) * power(_mm_sub_epi32(all, half));
    };
    return each(scale, a, n);
}
inline wide where_above(wide a, wide b, wide yes, wide no) {
    const auto blend = [](auto x, auto y, auto if_so, auto if_not) {
        return _mm256_blendv_pd(if_not, if_so, _mm256_cmp_pd(x, y, _CMP_GT_OQ));
    };
    return each(blend, a, b, yes, no);
}
inline double sum_lanes(wide value) {
    const __m256d sums = (value.b + value.d) + (value.a + value.c);
    const __m128d two = _mm256_extractf128_pd(sums, 1) + _mm256_castpd256_pd128(sums);
    return two[0] + two[1];
}

}  // namespace jl
