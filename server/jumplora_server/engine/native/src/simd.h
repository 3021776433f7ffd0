// Vectors of 16 floats: loads with a tail, exp, and the small product that attention and the dense
// deltas are made of.
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
