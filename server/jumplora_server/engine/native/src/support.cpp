// Compiled for any x86-64: what a caller may ask before it uses the kernels.
#include <cstdint>

extern "C" __attribute__((visibility("default"))) int jl_abi() { return 10; }  // ABI in library.py

// Whether this processor has what the kernels were compiled for.
extern "C" __attribute__((visibility("default"))) int jl_supported() {
    __builtin_cpu_init();
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("fma");
}

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
