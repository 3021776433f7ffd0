// Vectors on 64-bit ARM with the dot product: 16 floats in four registers. What each function promises
// is said in simd.h. Where ARM's own instruction answers otherwise than the other processors', a
// comparison and a selection take its place: the maximum of numbers of which one is NaN, for one.
#pragma once

#include <arm_neon.h>

#include <cstdint>
#include <cstring>

namespace jl {

constexpr int VECTORS = 8;  // 32 registers

struct vec {
    float32x4_t q[4];
};
using lanes = uint16_t;

inline void relax() { asm volatile("yield"); }

inline lanes tail_mask(int64_t left) {
    return left >= 16 ? 0xFFFF : left <= 0 ? 0 : static_cast<lanes>((1u << left) - 1);
}

// Of each quarter, and the vectors of them.
template <typename Each>
inline vec each_quarter(Each&& each) {
    return {{each(0), each(1), each(2), each(3)}};
}

// -- moving

inline vec fill(float value) {
    return each_quarter([&](int) { return vdupq_n_f32(value); });
}
inline vec load(const float* from) {
    return each_quarter([&](int i) { return vld1q_f32(from + 4 * i); });
}
inline void store(float* to, vec value) {
    for (int i = 0; i < 4; ++i) vst1q_f32(to + 4 * i, value.q[i]);
}

// The first `left` of four floats; `rest` stands for the others.
inline float32x4_t load_quarter(const float* from, int64_t left, float32x4_t rest) {
    if (left >= 4) return vld1q_f32(from);
    if (left >= 2) rest = vcombine_f32(vld1_f32(from), vget_high_f32(rest));
    if (left == 1) rest = vld1q_lane_f32(from, rest, 0);
    if (left == 3) rest = vld1q_lane_f32(from + 2, rest, 2);
    return rest;
}

inline vec load_or(const float* from, int64_t left, float rest) {
    if (left >= 16) return load(from);
    return each_quarter(
        [&](int i) { return load_quarter(from + 4 * i, left - 4 * i, vdupq_n_f32(rest)); });
}
inline vec load_some(const float* from, int64_t left) { return load_or(from, left, 0); }

inline void store_some(float* to, int64_t left, vec value) {
    if (left >= 16) return store(to, value);
    for (int i = 0; i < 4; ++i, to += 4, left -= 4) {
        const float32x4_t quarter = value.q[i];
        if (left >= 4) {
            vst1q_f32(to, quarter);
            continue;
        }
        if (left >= 2) vst1_f32(to, vget_low_f32(quarter));
        if (left == 1) vst1q_lane_f32(to, quarter, 0);
        if (left == 3) vst1q_lane_f32(to + 2, quarter, 2);
    }
}

// The first `left` of four numbers of 16 bits; zeros stand for the others.
inline uint16x4_t load_quarter(const uint16_t* from, int64_t left) {
    if (left >= 4) return vld1_u16(from);
    uint64_t bits = 0;
    for (int64_t i = 0; i < left; ++i) bits |= uint64_t{from[i]} << (16 * i);
    return vcreate_u16(bits);
}

inline vec load_f16(const uint16_t* from, int64_t left) {
    return each_quarter([&](int i) {
        return vcvt_f32_f16(vreinterpret_f16_u16(load_quarter(from + 4 * i, left - 4 * i)));
    });
}
inline vec load_bf16(const uint16_t* from, int64_t left) {
    return each_quarter([&](int i) {
        return vreinterpretq_f32_u32(vshll_n_u16(load_quarter(from + 4 * i, left - 4 * i), 16));
    });
}

inline void store_f16(uint16_t* to, int64_t left, vec value) {
    uint16_t all[16];
    for (int i = 0; i < 4; ++i) vst1_u16(all + 4 * i, vreinterpret_u16_f16(vcvt_f16_f32(value.q[i])));
    if (left > 0) std::memcpy(to, all, (left < 16 ? left : 16) * sizeof(uint16_t));
}

inline void transpose(vec (&t)[16]) {
    const auto as_pairs = [](float32x4_t v) { return vreinterpretq_f64_f32(v); };
    const auto as_floats = [](float64x2_t v) { return vreinterpretq_f32_f64(v); };
    vec turned[16];
    for (int row = 0; row < 16; row += 4)
        for (int i = 0; i < 4; ++i) {
            const float64x2_t a = as_pairs(vtrn1q_f32(t[row].q[i], t[row + 1].q[i]));
            const float64x2_t b = as_pairs(vtrn2q_f32(t[row].q[i], t[row + 1].q[i]));
            const float64x2_t c = as_pairs(vtrn1q_f32(t[row + 2].q[i], t[row + 3].q[i]));
            const float64x2_t d = as_pairs(vtrn2q_f32(t[row + 2].q[i], t[row + 3].q[i]));
            turned[4 * i].q[row / 4] = as_floats(vtrn1q_f64(a, c));
            turned[4 * i + 1].q[row / 4] = as_floats(vtrn1q_f64(b, d));
            turned[4 * i + 2].q[row / 4] = as_floats(vtrn2q_f64(a, c));
            turned[4 * i + 3].q[row / 4] = as_floats(vtrn2q_f64(b, d));
        }
    for (int i = 0; i < 16; ++i) t[i] = turned[i];
}

// -- arithmetic

inline float32x4_t higher(float32x4_t a, float32x4_t b) { return vbslq_f32(vcgtq_f32(a, b), a, b); }
inline float32x4_t lower(float32x4_t a, float32x4_t b) { return vbslq_f32(vcltq_f32(a, b), a, b); }

inline vec plus(vec a, vec b) {
    return each_quarter([&](int i) { return vaddq_f32(a.q[i], b.q[i]); });
}
inline vec minus(vec a, vec b) {
    return each_quarter([&](int i) { return vsubq_f32(a.q[i], b.q[i]); });
}
inline vec times(vec a, vec b) {
    return each_quarter([&](int i) { return vmulq_f32(a.q[i], b.q[i]); });
}
inline vec over(vec a, vec b) {
    return each_quarter([&](int i) { return vdivq_f32(a.q[i], b.q[i]); });
}
inline vec fused(vec a, vec b, vec c) {
    return each_quarter([&](int i) { return vfmaq_f32(c.q[i], a.q[i], b.q[i]); });
}
inline vec fused_off(vec a, vec b, vec c) {
    return each_quarter([&](int i) { return vfmsq_f32(c.q[i], a.q[i], b.q[i]); });
}
inline vec magnitude(vec a) {
    return each_quarter([&](int i) { return vabsq_f32(a.q[i]); });
}
inline vec higher(vec a, vec b) {
    return each_quarter([&](int i) { return higher(a.q[i], b.q[i]); });
}
inline vec lower(vec a, vec b) {
    return each_quarter([&](int i) { return lower(a.q[i], b.q[i]); });
}
inline vec nearest(vec a) {
    return each_quarter([&](int i) { return vrndnq_f32(a.q[i]); });
}

// In two exact factors, since 2^n itself may be no float: n is -126 to 128.
inline vec times_power(vec a, vec n) {
    return each_quarter([&](int i) {
        const int32x4_t whole = vcvtq_s32_f32(n.q[i]), half = vshrq_n_s32(whole, 1);
        const auto power = [](int32x4_t of) {
            return vreinterpretq_f32_s32(vshlq_n_s32(vaddq_s32(of, vdupq_n_s32(127)), 23));
        };
        return vmulq_f32(vmulq_f32(a.q[i], power(half)), power(vsubq_s32(whole, half)));
    });
}

inline float sum_lanes(vec value) {
    const float32x4_t sum = vaddq_f32(
        vaddq_f32(value.q[0], value.q[2]), vaddq_f32(value.q[1], value.q[3]));
    const float32x2_t two = vadd_f32(vget_low_f32(sum), vget_high_f32(sum));
    return vget_lane_f32(two, 0) + vget_lane_f32(two, 1);
}
inline float highest_lane(vec value) {
    float32x4_t high = higher(higher(value.q[3], value.q[1]), higher(value.q[2], value.q[0]));
    high = higher(high, vextq_f32(high, high, 2));
    return vgetq_lane_f32(higher(high, vextq_f32(high, high, 1)), 0);
}

// -- 4 floats

using four = float32x4_t;

inline four no_four() { return vdupq_n_f32(0); }
inline four load_four(const float* from) { return vld1q_f32(from); }
inline four load_four(const float* from, int64_t left) {
    return load_quarter(from, left, no_four());
}
inline four fused(four a, four b, four c) { return vfmaq_f32(c, a, b); }
inline float sum_lanes(four a) {
    const float32x4_t pairs = vpaddq_f32(a, a);
    return vgetq_lane_f32(pairs, 0) + vgetq_lane_f32(pairs, 1);
}

// -- comparisons

// A bit for each of 16 lanes, of which a quarter each are all ones or all zeros.
template <typename Each>
inline lanes bits_of(Each&& each) {
    const uint16x8_t low = vcombine_u16(vmovn_u32(each(0)), vmovn_u32(each(1)));
    const uint16x8_t high = vcombine_u16(vmovn_u32(each(2)), vmovn_u32(each(3)));
    const uint8x8_t bit = vcreate_u8(0x8040201008040201);
    const unsigned first = vaddv_u8(vand_u8(vmovn_u16(low), bit));
    return static_cast<lanes>(first | unsigned{vaddv_u8(vand_u8(vmovn_u16(high), bit))} << 8);
}

inline lanes above(vec a, vec b) {
    return bits_of([&](int i) { return vcgtq_f32(a.q[i], b.q[i]); });
}
inline lanes equal(vec a, vec b) {
    return bits_of([&](int i) { return vceqq_f32(a.q[i], b.q[i]); });
}
inline lanes unordered(vec a) {
    return bits_of([&](int i) { return vmvnq_u32(vceqq_f32(a.q[i], a.q[i])); });
}
inline vec where_above(vec a, vec b, vec yes, vec no) {
    return each_quarter(
        [&](int i) { return vbslq_f32(vcgtq_f32(a.q[i], b.q[i]), yes.q[i], no.q[i]); });
}

// One by one from a copy, since they may be written over where they come from.
template <typename Number>
inline void pack_lanes(Number* to, lanes which, const Number* from) {
    Number all[16];
    std::memcpy(all, from, sizeof all);
    for (unsigned rest = which; rest != 0; rest &= rest - 1) *to++ = all[__builtin_ctz(rest)];
}

// -- int8 products: both factors are signed, so that weights are stored numbers less 128

struct ints {
    int32x4_t q[4];
};
struct bytes {
    int8x16_t q[4];
};
using quad = int32_t;
constexpr int WEIGHT_VECTORS = 1;
constexpr int32_t WEIGHT_OFFSET = 0;

inline quad to_quad(int32_t four) { return four; }
inline ints no_ints() {
    const int32x4_t none = vdupq_n_s32(0);
    return {{none, none, none, none}};
}
inline bytes load_weights(const uint8_t* from) {
    const auto part = [&](int i) {
        return vreinterpretq_s8_u8(veorq_u8(vld1q_u8(from + 16 * i), vdupq_n_u8(128)));
    };
    return {{part(0), part(1), part(2), part(3)}};
}
inline ints dot(ints sum, bytes weights, const quad& x) {
    const int8x16_t own = vreinterpretq_s8_s32(vdupq_n_s32(x));
    for (int i = 0; i < 4; ++i) sum.q[i] = vdotq_s32(sum.q[i], weights.q[i], own);
    return sum;
}
inline ints minus(ints a, int32_t b) {
    for (int i = 0; i < 4; ++i) a.q[i] = vsubq_s32(a.q[i], vdupq_n_s32(b));
    return a;
}
inline ints plus(ints a, ints b) {
    for (int i = 0; i < 4; ++i) a.q[i] = vaddq_s32(a.q[i], b.q[i]);
    return a;
}
inline vec to_floats(ints a) {
    return each_quarter([&](int i) { return vcvtq_f32_s32(a.q[i]); });
}
inline int32_t sum_lanes(ints a) {
    return vaddvq_s32(vaddq_s32(vaddq_s32(a.q[0], a.q[1]), vaddq_s32(a.q[2], a.q[3])));
}
inline ints round_to_bytes(vec value, int32_t* four_each) {
    int16x4_t narrow[4];
    for (int i = 0; i < 4; ++i) {
        const float32x4_t v = value.q[i];  // NaN becomes the least number, as it does on x86
        const int32x4_t whole = vbslq_s32(
            vceqq_f32(v, v), vcvtnq_s32_f32(v), vdupq_n_s32(INT32_MIN));
        narrow[i] = vqmovn_s32(whole);
    }
    const int8x8_t low = vqmovn_s16(vcombine_s16(narrow[0], narrow[1]));
    const int8x8_t high = vqmovn_s16(vcombine_s16(narrow[2], narrow[3]));
    const int8x16_t rounded = vcombine_s8(low, high);
    std::memcpy(four_each, &rounded, sizeof rounded);
    const int16x8_t first = vmovl_s8(low), second = vmovl_s8(high);
    return {{vmovl_s16(vget_low_s16(first)), vmovl_high_s16(first),
             vmovl_s16(vget_low_s16(second)), vmovl_high_s16(second)}};
}

// -- 16 doubles

struct wide {
    float64x2_t p[8];
};

template <typename Each>
inline wide each_pair(Each&& each) {
    return {{each(0), each(1), each(2), each(3), each(4), each(5), each(6), each(7)}};
}

inline wide load_wide(const double* from) {
    return each_pair([&](int i) { return vld1q_f64(from + 2 * i); });
}
inline void store_wide(double* to, wide value) {
    for (int i = 0; i < 8; ++i) vst1q_f64(to + 2 * i, value.p[i]);
}
inline wide fill_wide(double value) {
    return each_pair([&](int) { return vdupq_n_f64(value); });
}
inline wide widen(vec value) {
    return each_pair([&](int i) {
        const float32x4_t quarter = value.q[i / 2];
        return i % 2 == 0 ? vcvt_f64_f32(vget_low_f32(quarter)) : vcvt_high_f64_f32(quarter);
    });
}
inline wide plus(wide a, wide b) {
    return each_pair([&](int i) { return vaddq_f64(a.p[i], b.p[i]); });
}
inline wide minus(wide a, wide b) {
    return each_pair([&](int i) { return vsubq_f64(a.p[i], b.p[i]); });
}
inline wide times(wide a, wide b) {
    return each_pair([&](int i) { return vmulq_f64(a.p[i], b.p[i]); });
}
inline wide fused(wide a, wide b, wide c) {
    return each_pair([&](int i) { return vfmaq_f64(c.p[i], a.p[i], b.p[i]); });
}
inline wide fused_off(wide a, wide b, wide c) {
    return each_pair([&](int i) { return vfmsq_f64(c.p[i], a.p[i], b.p[i]); });
}
inline wide higher(wide a, wide b) {
    return each_pair([&](int i) { return vbslq_f64(vcgtq_f64(a.p[i], b.p[i]), a.p[i], b.p[i]); });
}
inline wide nearest(wide a) {
    return each_pair([&](int i) { return vrndnq_f64(a.p[i]); });
}
// In one factor: n is -1022 to 1023.
inline wide times_power(wide a, wide n) {
    return each_pair([&](int i) {
        const int64x2_t biased = vaddq_s64(vcvtq_s64_f64(n.p[i]), vdupq_n_s64(1023));
        return vmulq_f64(a.p[i], vreinterpretq_f64_s64(vshlq_n_s64(biased, 52)));
    });
}
inline wide where_above(wide a, wide b, wide yes, wide no) {
    return each_pair(
        [&](int i) { return vbslq_f64(vcgtq_f64(a.p[i], b.p[i]), yes.p[i], no.p[i]); });
}
inline double sum_lanes(wide value) {
    const auto sum = [&](int i) { return vaddq_f64(value.p[i], value.p[i + 4]); };
    const float64x2_t two = vaddq_f64(vaddq_f64(sum(0), sum(2)), vaddq_f64(sum(1), sum(3)));
    return vgetq_lane_f64(two, 0) + vgetq_lane_f64(two, 1);
}

}  // namespace jl
