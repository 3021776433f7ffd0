// Vectors of 16 floats, whatever the processor has, and what kernels make of them.
//
// Kernels name no instruction set. A header for each implements the same functions, and build.py
// compiles the kernels once with each of them. All give the same bits: products and sums are rounded as
// IEEE 754 has it, `fused` once, and the lanes of a vector are summed in one order.
//
// A header has, with `left` numbers that remain at an address and may be more than 16, or none:
//   VECTORS                       vectors that fit into the registers: kernels choose their tiles by it
//   relax()                       what a waiting thread does
//   vec, lanes, tail_mask(left)   16 floats; a bit for each lane; the bits of the first `left`
//   fill, load, store             one number in all lanes; any address
//   load_some(from, left)         zeros stand for what does not remain, and are not read
//   load_or(from, left, rest)     `rest` stands for it
//   store_some(to, left, v)       writes the first `left`
//   load_f16, load_bf16           like load_some, from 16 bits
//   store_f16(to, left, v)        like store_some, rounded to even; what float16 has no number for
//                                 becomes infinite
//   transpose(t)                  16 vectors turned over their diagonal
//   plus, minus, times, over      a + b, a - b, a * b, a / b
//   fused(a, b, c)                a b + c, rounded once
//   fused_off(a, b, c)            c - a b, rounded once
//   magnitude, nearest            |a|; the nearest whole number, of two the even one
//   higher(a, b), lower(a, b)     if b is NaN, it is b
//   times_power(a, n)             a 2^n for a whole number n, rounded once
//   sum_lanes, highest_lane       lane i + lane i + 8, then i + 4, i + 2, i + 1
//   four, no_four, fused          4 floats; their sum_lanes is (0 + 1) + (2 + 3)
//   load_four(from), (from, left) as load, and load_some
//   above, equal, unordered       lanes where a > b, a = b; where a is NaN
//   where_above(a, b, yes, no)    lanes of `yes` where a > b, of `no` elsewhere
//   pack_lanes(to, which, from)   the lanes of `which` side by side, of float, int32_t or double; `to`
//                                 has room for 16 and may lie before `from`
//   ints, no_ints, plus           16 int32
//   bytes, load_weights(from)     64 aligned uint8, four of each of 16 outputs, in WEIGHT_VECTORS vectors
//   quad, to_quad(four)           four int8 of a row, which lie in an int32, as `dot` takes them
//   dot(sum, weights, x)          sum + the products of each output's four with x, exact; the weights
//                                 count as WEIGHT_OFFSET more than the stored number less 128
//   minus(ints, number), to_floats, sum_lanes of ints
//   round_to_bytes(v, four_each)  nearest whole numbers, held to int8, written as 16 bytes; returned
//   wide, ..._wide, widen         16 doubles, with the same arithmetic
#pragma once

#include <cstdint>
#include <cstdlib>

#if defined(__AVX512F__) && defined(__AVX512VNNI__)
#include "simd_avx512.h"
#elif defined(__AVX2__)
#include "simd_avx2.h"
#elif defined(__aarch64__)
#include "simd_neon.h"
#else
#error "the kernels are for AVX-512 with VNNI, AVX2 with FMA and F16C, or 64-bit ARM"
#endif

namespace jl {

// Numbers that are kept as float16.
using half = uint16_t;
inline vec load(const half* from) { return load_f16(from, 16); }
inline vec load_some(const half* from, int64_t left) { return load_f16(from, left); }

// e^x, within 2 units in the last place. Below -87.3 it gives 0 and above 88.7 a large number; NaN
// stays NaN. Cody and Waite's reduction to |r| <= ln(2) / 2, then the Taylor polynomial of order 6.
inline vec exp_ps(vec x) {
    const vec low = fill(-87.336544f), high = fill(88.722839f);
    const vec held = higher(low, lower(high, x));
    const vec n = nearest(times(held, fill(1.44269504f)));
    vec r = fused_off(n, fill(0.693359375f), held);
    r = fused_off(n, fill(-2.12194440e-4f), r);
    vec p = fill(1.0f / 720);
    p = fused(p, r, fill(1.0f / 120));
    p = fused(p, r, fill(1.0f / 24));
    p = fused(p, r, fill(1.0f / 6));
    p = fused(p, r, fill(0.5f));
    p = fused(p, r, fill(1.0f));
    p = fused(p, r, fill(1.0f));
    return where_above(low, x, fill(0), times_power(p, n));
}

// e^x for x <= 0, to about one unit in the last place of a double; below -708 it gives 0.
inline wide exp_wide(wide x) {
    const wide low = fill_wide(-708.0);
    const wide held = higher(low, x);
    const wide n = nearest(times(held, fill_wide(1.4426950408889634)));
    wide r = fused_off(n, fill_wide(6.93147180369123816490e-01), held);
    r = fused_off(n, fill_wide(1.90821492927058770002e-10), r);
    // Taylor: |r| <= ln(2) / 2, where the term of order 14 is below 2^-57.
    wide p = fill_wide(1.0 / 6227020800);
    constexpr double TERMS[] = {1.0 / 479001600, 1.0 / 39916800, 1.0 / 3628800, 1.0 / 362880,
                                1.0 / 40320,     1.0 / 5040,     1.0 / 720,     1.0 / 120,
                                1.0 / 24,        1.0 / 6,        0.5,           1.0, 1.0};
#pragma GCC unroll 13
    for (const double term : TERMS) p = fused(p, r, fill_wide(term));
    return where_above(low, x, fill_wide(0), times_power(p, n));
}

// C[r][j] = sum over k of a[r * lda + k] * b[k * ldb + j], k ascending, for R rows and NV vectors
// of columns, of whose last one `left` remain.
template <int R, int NV, typename T>
inline void small_product(
    const float* a, int64_t lda, const T* b, int64_t ldb, int64_t depth, int64_t left,
    vec (&c)[R][NV]) {
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
        for (int v = 0; v < NV; ++v) c[r][v] = fill(0);
    for (int64_t k = 0; k < depth; ++k, b += ldb) {
        vec column[NV];
#pragma GCC unroll 8
        for (int v = 0; v < NV; ++v)
            column[v] = v + 1 < NV ? load(b + 16 * v) : load_some(b + 16 * v, left);
#pragma GCC unroll 8
        for (int r = 0; r < R; ++r) {
            const vec scalar = fill(a[r * lda + k]);
#pragma GCC unroll 8
            for (int v = 0; v < NV; ++v) c[r][v] = fused(scalar, column[v], c[r][v]);
        }
    }
}

// How many vectors of columns R rows of such a product may have, so that all stay in registers.
template <int R>
constexpr int columns_of() {
    constexpr int most = (VECTORS - 1) / (R + 1);
    return most >= 4 ? 4 : most >= 2 ? 2 : 1;
}

// to[c][r] = from[r][c] for a tile of rows x columns, each at most 16; missing rows become zeros.
inline void transpose_tile(
    const float* from, int64_t from_stride, int64_t rows, int64_t columns, float* to,
    int64_t to_stride) {
    vec t[16];
    for (int r = 0; r < 16; ++r)
        t[r] = r < rows ? load_some(from + r * from_stride, columns) : fill(0);
    transpose(t);
    for (int c = 0; c < columns; ++c) store(to + c * to_stride, t[c]);
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
