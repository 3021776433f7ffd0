// Prints what each vector function makes of edge cases, in hex: every instruction set is to print
// the same. What has a closed form is checked here; a line "WRONG" names what is not as it should be.
#include <sys/mman.h>
#include <unistd.h>

#include <bit>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include "simd.h"

using namespace jl;

namespace {

constexpr float INF = std::numeric_limits<float>::infinity();
constexpr float NOT = std::numeric_limits<float>::quiet_NaN();

void require(bool holds, const char* what, int64_t which) {
    if (!holds) std::printf("WRONG %s %lld\n", what, static_cast<long long>(which));
}

// Processors differ in which NaN they give, and may.
void print(const char* name, float value) {
    if (std::isnan(value)) std::printf("%s nan\n", name);
    else std::printf("%s %08x\n", name, std::bit_cast<uint32_t>(value));
}
void print(const char* name, double value) {
    if (std::isnan(value)) std::printf("%s nan\n", name);
    else std::printf("%s %016llx\n", name, std::bit_cast<unsigned long long>(value));
}
void print(const char* name, int64_t value) {
    std::printf("%s %lld\n", name, static_cast<long long>(value));
}
void print(const char* name, vec value) {
    float all[16];
    store(all, value);
    for (const float each : all) print(name, each);
}
void print(const char* name, wide value) {
    double all[16];
    store_wide(all, value);
    for (const double each : all) print(name, each);
}
bool same(float a, float b) { return std::bit_cast<uint32_t>(a) == std::bit_cast<uint32_t>(b); }

uint64_t state = 1;
uint64_t random_bits() {  // Knuth's MMIX generator; its high bits are the good ones
    state = state * 6364136223846793005u + 1442695040888963407u;
    return state >> 32;
}
float random_float() { return static_cast<float>(random_bits() % 20001) / 1000 - 10; }

// Two pages, behind which nothing may be touched.
char* page_end() {
    const size_t size = sysconf(_SC_PAGESIZE);
    void* const pages = mmap(nullptr, 3 * size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (pages == MAP_FAILED) std::abort();
    char* const end = static_cast<char*>(pages) + 2 * size;
    if (mprotect(end, size, PROT_NONE) != 0) std::abort();
    return end;
}

constexpr float EDGES[] = {0.0f, -0.0f, 1.0f, -1.0f, 0.5f, -0.5f, 1.5f, 2.5f, -2.5f, 3.4e38f, -3.4e38f,
                           1e-45f, -1e-45f, 1.1754944e-38f, INF, -INF, NOT, 126.5f, 127.5f, -127.5f,
                           128.5f, -128.5f, -129.5f, 1e10f, -1e10f, 8388607.5f, 0.3333333f, -88.0f, 88.7f, -87.3f};
constexpr int COUNT = std::size(EDGES);

float edge(uint64_t i) { return EDGES[i % COUNT]; }
vec edges(uint64_t first, uint64_t step) {
    float all[16];
    for (int i = 0; i < 16; ++i) all[i] = edge(first + step * i);
    return load(all);
}
wide wide_edges(uint64_t first, uint64_t step) {
    double all[16];
    for (int i = 0; i < 16; ++i) all[i] = double{edge(first + step * i)} * 1.0000000001;
    return load_wide(all);
}

void check_tails(char* end) {
    for (int64_t left = -2; left <= 17; ++left) {
        const int64_t there = left < 0 ? 0 : left, some = there < 16 ? there : 16;
        require(tail_mask(left) == (1u << some) - 1, "tail_mask", left);
        float* const at = reinterpret_cast<float*>(end) - there;
        for (int64_t i = 0; i < there; ++i) at[i] = static_cast<float>(i + 1);
        float found[16], filled[16];
        store(found, load_some(at, left));
        store(filled, load_or(at, left, -INF));
        for (int64_t i = 0; i < 16; ++i) {
            require(same(found[i], i < some ? i + 1.0f : 0.0f), "load_some", left);
            require(same(filled[i], i < some ? i + 1.0f : -INF), "load_or", left);
        }
        float* const before = at - 16;  // is to stay
        for (int64_t i = 0; i < 16; ++i) before[i] = 7;
        store_some(at, left, fill(5));
        for (int64_t i = 0; i < there; ++i)
            require(at[i] == (i < 16 ? 5.0f : i + 1.0f), "store_some", left);
        for (int64_t i = 0; i < 16; ++i) require(before[i] == 7, "store_some before", left);

        uint16_t* const half = reinterpret_cast<uint16_t*>(end) - there;
        for (int64_t i = 0; i < there; ++i) half[i] = static_cast<uint16_t>(0x3C00 + i);
        store(found, load_f16(half, left));
        store(filled, load_bf16(half, left));
        for (int64_t i = 0; i < 16; ++i) {
            const auto bits = static_cast<uint32_t>(i < some ? 0x3C00 + i : 0);
            require(same(found[i], i < some ? 1 + i / 1024.0f : 0.0f), "load_f16", left);
            require(same(filled[i], std::bit_cast<float>(bits << 16)), "load_bf16", left);
        }
        if (left >= 16) {  // nothing behind the last whole vector either
            store_some(at + there - 16, 16, fill(1));
            require(same(sum_lanes(load_some(at + there - 16, 16)), 16), "last vector", left);
        }
    }
}

void check_four(char* end) {
    const float given[4] = {1.0f / 3, -1e8f, 1e8f, 0.7f};
    for (int64_t left = -1; left <= 5; ++left) {
        const int64_t some = left < 0 ? 0 : left < 4 ? left : 4;
        float* const at = reinterpret_cast<float*>(end) - some;
        float all[4] = {};
        for (int64_t i = 0; i < some; ++i) all[i] = at[i] = given[i];
        const float expected = (all[0] + all[1]) + (all[2] + all[3]);
        require(same(sum_lanes(load_four(at, left)), expected), "four", left);
        const four twice = fused(load_four(at, left), load_four(at, left), no_four());
        for (float& each : all) each *= each;
        require(same(sum_lanes(twice), (all[0] + all[1]) + (all[2] + all[3])), "four fused", left);
    }
}

// Every number of 16 bits.
void check_halves() {
    for (uint32_t first = 0; first < 0x10000; first += 16) {
        uint16_t bits[16];
        for (uint32_t i = 0; i < 16; ++i) bits[i] = static_cast<uint16_t>(first + i);
        float half[16], brain[16];
        store(half, load_f16(bits, 16));
        store(brain, load_bf16(bits, 16));
        for (uint32_t i = 0; i < 16; ++i) {
            const uint32_t exponent = bits[i] >> 10 & 31, fraction = bits[i] & 1023;
            float expected = exponent == 31 ? (fraction ? NOT : INF)
                             : exponent     ? std::ldexp(1024.0f + fraction, int(exponent) - 25)
                                            : std::ldexp(float(fraction), -24);
            if (bits[i] >> 15) expected = -expected;
            require(std::isnan(expected) ? std::isnan(half[i]) : same(half[i], expected),
                    "f16", bits[i]);
            require(same(brain[i], std::bit_cast<float>(uint32_t{bits[i]} << 16)), "bf16", bits[i]);
        }
    }
}

void check_arithmetic() {
    for (uint64_t i = 0; i < COUNT; ++i)
        for (uint64_t j = 0; j < COUNT; ++j) {
            const vec a = edges(i, 1), b = edges(j, 7), c = edges(i + j, 11);
            print("plus", plus(a, b));
            print("minus", minus(a, b));
            print("times", times(a, b));
            print("over", over(a, b));
            print("fused", fused(a, b, c));
            print("fused_off", fused_off(a, b, c));
            print("higher", higher(a, b));
            print("lower", lower(a, b));
            print("where_above", where_above(a, b, c, fill(3)));
            print("above", int64_t{above(a, b)});
            print("equal", int64_t{equal(a, b)});
            float left[16], right[16], kept[16], dropped[16];
            store(left, a), store(right, b), store(kept, higher(a, b)), store(dropped, lower(a, b));
            for (int l = 0; l < 16; ++l) {
                const float x = left[l], y = right[l];
                require((above(a, b) >> l & 1) == (x > y), "above", l);
                require((equal(a, b) >> l & 1) == (x == y), "equal", l);
                require((unordered(a) >> l & 1) == std::isnan(x), "unordered", l);
                if (std::isnan(y))
                    require(std::isnan(kept[l]) && std::isnan(dropped[l]), "NaN wins", l);
                if (std::isnan(x)) require(kept[l] == y || std::isnan(y), "NaN loses", l);
            }
        }
    for (uint64_t i = 0; i < COUNT; ++i) {
        print("magnitude", magnitude(edges(i, 1)));
        print("nearest", nearest(edges(i, 1)));
        print("exp_ps", exp_ps(edges(i, 1)));
        print("highest_lane", highest_lane(edges(i, 1)));
        print("sum_lanes", sum_lanes(edges(i, 3)));
    }
    for (int i = 0; i < 200; ++i) {
        float all[16];
        for (float& each : all) each = random_float() * (i % 2 ? 1.0f : 1e6f);
        float expected[16];
        std::memcpy(expected, all, sizeof all);
        for (int half = 8; half > 0; half /= 2)
            for (int l = 0; l < half; ++l) expected[l] += expected[l + half];
        require(same(sum_lanes(load(all)), expected[0]), "sum_lanes", i);
        print("exp_ps", exp_ps(load(all)));
    }
}

void check_powers() {
    const float parts[] = {0.70710678f, 0.99999994f, 1.0f, 1.4142135f, 1.1754944f, 0.9f, 1.2f, 0.75f};
    for (int n = -126; n <= 128; ++n)
        for (const float part : parts) {
            float found[16];
            store(found, times_power(fill(part), fill(static_cast<float>(n))));
            for (const float each : found) require(same(each, std::ldexp(part, n)), "power", n);
        }
    for (int n = -1022; n <= 1024; ++n)
        for (const float part : parts) {
            double found[16];
            store_wide(found, times_power(fill_wide(part * 1.000000001), fill_wide(n)));
            for (const double each : found)
                require(each == std::ldexp(part * 1.000000001, n), "wide power", n);
        }
    float broken[16];
    store(broken, times_power(fill(NOT), fill(NOT)));
    require(std::isnan(broken[0]) && std::isnan(broken[15]), "power of NaN", 0);
}

void check_moves() {
    vec t[16];
    float all[16];
    for (int r = 0; r < 16; ++r) {
        for (int c = 0; c < 16; ++c) all[c] = static_cast<float>(100 * r + c);
        t[r] = load(all);
    }
    transpose(t);
    for (int r = 0; r < 16; ++r) {
        store(all, t[r]);
        for (int c = 0; c < 16; ++c) require(all[c] == 100 * c + r, "transpose", 16 * r + c);
    }
    for (uint32_t which = 0; which < 0x10000; which += which < 512 ? 1 : 251)
        for (const int before : {0, 1, 5, 16}) {  // the place written may lie before the one read
            float floats[32] = {};
            int32_t whole[32] = {};
            double doubles[32] = {};
            for (int i = 0; i < 16; ++i)
                floats[before + i] = whole[before + i] = static_cast<int>(doubles[before + i] = i + 1);
            pack_lanes(floats, static_cast<lanes>(which), floats + before);
            pack_lanes(whole, static_cast<lanes>(which), whole + before);
            pack_lanes(doubles, static_cast<lanes>(which), doubles + before);
            for (int i = 0, at = 0; i < 16; ++i)
                if (which >> i & 1) {
                    require(floats[at] == i + 1 && whole[at] == i + 1 && doubles[at] == i + 1,
                            "pack_lanes", which);
                    ++at;
                }
        }
}

void check_ints() {
    alignas(64) uint8_t stored[64];
    int8_t x[4];
    for (int i = 0; i < 3000; ++i) {
        const auto any = [&](const uint8_t (&extremes)[4]) {
            const uint64_t bits = random_bits();
            return i % 3 == 0 ? extremes[bits % 4] : static_cast<uint8_t>(bits % 255 + 1);
        };
        for (uint8_t& each : stored) each = any({1, 255, 255, 128});
        for (int8_t& each : x) each = static_cast<int8_t>(any({127, 129, 129, 127}));
        if (i == 0) std::memset(stored, 255, 64), std::memset(x, 129, 4);  // 255 * -127 in all
        int32_t neighbours;
        std::memcpy(&neighbours, x, 4);
        const quad q = to_quad(neighbours);
        ints sum = dot(dot(no_ints(), load_weights(stored), q), load_weights(stored), q);
        sum = minus(sum, 2 * (WEIGHT_OFFSET - 128) * (x[0] + x[1] + x[2] + x[3]));
        float found[16];
        store(found, to_floats(sum));
        int64_t total = 0;
        for (int o = 0; o < 16; ++o) {
            int64_t expected = 0;
            for (int k = 0; k < 4; ++k) expected += 2 * stored[4 * o + k] * x[k];
            require(found[o] == static_cast<float>(expected), "dot", i);
            total += expected;
        }
        require(sum_lanes(sum) == total, "sum_lanes of ints", i);
        require(sum_lanes(plus(sum, sum)) == 2 * total, "plus of ints", i);
    }
    for (uint64_t i = 0; i < COUNT; ++i) {
        int32_t fours[4];
        const vec value = edges(i, 1);
        const ints rounded = round_to_bytes(value, fours);
        int8_t bytes_of[16];
        std::memcpy(bytes_of, fours, 16);
        float back[16], given[16];
        store(back, to_floats(rounded)), store(given, value);
        for (int l = 0; l < 16; ++l) {
            require(back[l] == bytes_of[l], "round_to_bytes", l);
            if (std::abs(given[l]) > 1e9f || std::isnan(given[l])) continue;  // no activation is so
            const float held = std::fmin(std::fmax(std::nearbyint(given[l]), -128.0f), 127.0f);
            require(back[l] == held, "round_to_bytes", l);
        }
    }
}

void check_wide() {
    for (uint64_t i = 0; i < COUNT; ++i)
        for (uint64_t j = 0; j < COUNT; j += 3) {
            const wide a = wide_edges(i, 1), b = wide_edges(j, 7), c = wide_edges(i + j, 11);
            print("plus", plus(a, b));
            print("minus", minus(a, b));
            print("times", times(a, b));
            print("fused", fused(a, b, c));
            print("fused_off", fused_off(a, b, c));
            print("higher", higher(a, b));
            print("where_above", where_above(a, b, c, fill_wide(3)));
        }
    for (uint64_t i = 0; i < COUNT; ++i) {
        print("widen", widen(edges(i, 1)));
        print("nearest", nearest(wide_edges(i, 1)));
        print("sum_lanes", sum_lanes(wide_edges(i, 3)));
        print("exp_wide", exp_wide(minus(fill_wide(0), widen(magnitude(edges(i, 1))))));
    }
    for (int i = 0; i < 200; ++i) {
        double all[16], expected[16];
        for (double& each : all) each = random_float() / 3.0;
        std::memcpy(expected, all, sizeof all);
        for (int half = 8; half > 0; half /= 2)
            for (int l = 0; l < half; ++l) expected[l] += expected[l + half];
        require(sum_lanes(load_wide(all)) == expected[0], "wide sum_lanes", i);
        for (double& each : all) each = -std::abs(i * each);  // exp_wide is for none above 0
        print("exp_wide", exp_wide(load_wide(all)));
    }
}

}  // namespace

int main() {
    char* const end = page_end();
    check_tails(end);
    check_four(end);
    check_halves();
    check_arithmetic();
    check_powers();
    check_moves();
    check_ints();
    check_wide();
    std::printf("done\n");
}
