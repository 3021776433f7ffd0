// Compiled for any processor of its kind: what a caller may ask before it uses the kernels, and what
// needs no vectors. build.py defines which instruction set the rest of the library was compiled for.
#include <cstdint>

#if defined(JL_NEON)
#include <sys/auxv.h>
#elif defined(JL_AVX512) || defined(JL_AVX2_VNNI) || defined(JL_AVX2)
#include <cpuid.h>
#else
#error "build.py defines one of JL_AVX512, JL_AVX2_VNNI, JL_AVX2, JL_NEON"
#endif

namespace {

#if defined(JL_NEON)

// Of <asm/hwcap.h>, whose older versions lack the second.
constexpr unsigned long ATOMICS = 1ul << 8, DOT_PRODUCT = 1ul << 20;

bool is_supported() {
    const unsigned long found = getauxval(AT_HWCAP);
    return (found & ATOMICS) != 0 && (found & DOT_PRODUCT) != 0;
}

#else

// Whether the processor has it is not enough: "avx2" and "avx512f" also say that the system keeps the
// registers. What not all compilers have a name for is read from the processor.
bool is_supported() {
    __builtin_cpu_init();
    unsigned a = 0, b = 0, c = 0, d = 0;
    const bool has_f16c = __get_cpuid(1, &a, &b, &c, &d) != 0 && (c & (1u << 29)) != 0;
    if (!has_f16c || !__builtin_cpu_supports("fma") || !__builtin_cpu_supports("avx2")) return false;
#if defined(JL_AVX512)
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512vnni");
#elif defined(JL_AVX2_VNNI)
    return __get_cpuid_count(7, 1, &a, &b, &c, &d) != 0 && (a & (1u << 4)) != 0;
#else
    return true;
#endif
}

#endif

}  // namespace

extern "C" __attribute__((visibility("default"))) int jl_abi() { return 15; }  // ABI in library.py

// Whether this processor has what the kernels were compiled for.
extern "C" __attribute__((visibility("default"))) int jl_supported() { return is_supported(); }

// A bit mask over a matrix [d_out, d_in] (row-major, least significant bit first) as compressed
// rows: offsets [d_out + 1], columns [set bits]. Returns the number of set bits.
extern "C" __attribute__((visibility("default"))) int64_t jl_unpack_mask(
    const uint8_t* mask, int64_t d_out, int64_t d_in, int32_t* offsets, uint16_t* columns) {
    int64_t found = 0;
    offsets[0] = 0;
    for (int64_t o = 0; o < d_out; ++o) {
        int64_t bit = o * d_in;
        const int64_t end = bit + d_in;
        while (bit < end) {  // up to the next byte's border, then byte by byte
            const int64_t stop = end < (bit / 8 + 1) * 8 ? end : (bit / 8 + 1) * 8;
            unsigned bits = (mask[bit / 8] >> (bit % 8)) & ((1u << (stop - bit)) - 1);
            for (; bits != 0; bits &= bits - 1)
                columns[found++] = static_cast<uint16_t>(bit - o * d_in + __builtin_ctz(bits));
            bit = stop;
        }
        offsets[o + 1] = static_cast<int32_t>(found);
    }
    return found;
}
