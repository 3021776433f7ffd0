// Prints a digest of what each kernel of a library computes. The inputs are the same on every
// processor, so the digests are to be the same, too.
//
//     digests LIBRARY
#include <dlfcn.h>
#include <sys/mman.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <initializer_list>
#include <vector>

#include "tape.h"

using namespace jl;

namespace {

using Replay = int (*)(const Op*, int64_t, const Step*, int, double*);
Replay replay;

// -- inputs, from SplitMix64 (Steele, Lea and Flood, OOPSLA 2014); nothing is freed

uint64_t state = 1;

uint64_t draw() {
    uint64_t z = state += 0x9E3779B97F4A7C15;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB;
    return z ^ (z >> 31);
}

float number(float scale) {  // of 24 bits, from -scale to scale
    return static_cast<float>(static_cast<int64_t>(draw()) >> 40) * 0x1p-23f * scale;
}

// Zeros that end where a page begins that may not be touched: a kernel that reads or writes past them
// ends the process. Whole cache lines start at one.
template <typename T>
T* room(int64_t count) {
    constexpr size_t PAGE = 4096;
    const size_t bytes = count * sizeof(T), whole = (bytes + PAGE - 1) / PAGE * PAGE;
    void* pages = mmap(
        nullptr, whole + PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (pages == MAP_FAILED || mprotect(static_cast<char*>(pages) + whole, PAGE, PROT_NONE) != 0) {
        std::perror("digests: memory");
        std::exit(4);
    }
    return reinterpret_cast<T*>(static_cast<char*>(pages) + whole - bytes);
}

float* numbers(int64_t count, float scale = 1) {
    float* made = room<float>(count);
    for (int64_t i = 0; i < count; ++i) made[i] = number(scale);
    return made;
}

uint8_t* random_bytes(int64_t count) {
    uint8_t* made = room<uint8_t>(count);
    for (int64_t i = 0; i < count; ++i) made[i] = static_cast<uint8_t>(draw());
    return made;
}

template <typename T>
T* array(std::initializer_list<T> given) {
    T* made = room<T>(given.size());
    int64_t i = 0;
    for (const T& one : given) made[i++] = one;
    return made;
}

int64_t whole(int64_t n, int64_t of) { return (n + of - 1) / of * of; }

// -- running

Op op_of(Kind kind, std::initializer_list<void*> p, std::initializer_list<int64_t> n) {
    Op op{.kind = kind, .p = {}, .n = {}, .f = {}};
    int i = 0;
    for (void* one : p) op.p[i++] = one;
    i = 0;
    for (const int64_t one : n) op.n[i++] = one;
    return op;
}

struct Output {
    const void* at;
    int64_t bytes;
};

// FNV-1a of what the operations wrote.
void print(
    const char* name, std::initializer_list<Op> ops, const Step& step,
    std::initializer_list<Output> outputs) {
    const std::vector<Op> all(ops);
    const int outcome = replay(all.data(), static_cast<int64_t>(all.size()), &step, 2, nullptr);
    uint64_t digest = 0xCBF29CE484222325;
    for (const Output& output : outputs)
        for (int64_t i = 0; i < output.bytes; ++i)
            digest = (digest ^ static_cast<const uint8_t*>(output.at)[i]) * 0x100000001B3;
    std::printf("%s %lld rows: %d %016llx\n", name, static_cast<long long>(step.rows), outcome,
                static_cast<unsigned long long>(digest));
}

Output floats(const float* at, int64_t count) { return {at, count * 4}; }

// -- deltas: tables of MODULES matrices [D_OUT, D_IN]

constexpr int64_t MODULES = 3, D_OUT = 150, D_IN = 90, RANK = 5;

uint16_t half_of(ValueType type) {
    // Of half precision some that are not normal, and none that is not finite.
    if (type == VALUE_F16) return static_cast<uint16_t>(draw()) & 0xBFFF;
    uint32_t wide;
    const float value = number(0.5f);
    std::memcpy(&wide, &value, 4);
    return static_cast<uint16_t>(wide >> 16);
}

Delta sparse(ValueType type, int share) {  // of 256
    int32_t* offsets = room<int32_t>(D_OUT + 1);
    std::vector<uint16_t> columns;
    for (int64_t o = 0; o < D_OUT; ++o) {
        for (int64_t k = 0; k < D_IN; ++k)
            if (o % 40 != 0 && static_cast<int>(draw() % 256) < share)
                columns.push_back(static_cast<uint16_t>(k));
        offsets[o + 1] = static_cast<int32_t>(columns.size());
    }
    const auto count = static_cast<int64_t>(columns.size());
    uint16_t* own = room<uint16_t>(count);
    std::copy(columns.begin(), columns.end(), own);
    void* values = type == VALUE_F32 ? static_cast<void*>(numbers(count)) : room<uint16_t>(count);
    if (type != VALUE_F32)
        for (int64_t i = 0; i < count; ++i) static_cast<uint16_t*>(values)[i] = half_of(type);
    return {.kind = SPARSE, .value_type = type, .rank = 0, .offsets = offsets, .columns = own,
            .values = values, .a = nullptr, .b = nullptr};
}

Delta with_factors(Delta delta) {
    const int64_t stride = whole(D_IN, LANES);
    float* a = numbers(RANK * stride);
    for (int64_t r = 0; r < RANK; ++r)
        for (int64_t k = D_IN; k < stride; ++k) a[r * stride + k] = 0;
    delta.kind |= LOW_RANK;
    delta.rank = RANK;
    delta.a = a;
    delta.b = numbers(whole(D_OUT, 32) * RANK);
    return delta;
}

Delta dense() {
    return {.kind = DENSE, .value_type = 0, .rank = 0, .offsets = nullptr, .columns = nullptr,
            .values = numbers(whole(D_OUT, 32) * D_IN), .a = nullptr, .b = nullptr};
}

// A family of rows behind `row`: all of them add the first table, and the later ones the others.
void deltas(const char* name, Kind kind, int64_t rows) {
    const Delta none{};
    const Delta* const tables[] = {
        array({sparse(VALUE_F32, 20), with_factors(none), none}),
        array({sparse(VALUE_F16, 90), none, dense()}),
        array({with_factors(sparse(VALUE_BF16, 200)), sparse(VALUE_BF16, 8), dense()})};
    std::vector<Block> blocks;
    int64_t inner = 0;
    for (int t = 0; t < 3; ++t) {
        const int64_t first = rows > 2 ? t : 0;
        if (first >= rows) continue;
        blocks.push_back({.row = 1 + first, .rows = rows - first, .table = tables[t], .inner = inner});
        inner += MODULES * RANK * whole(rows, LANES);
    }
    const auto count = static_cast<int64_t>(blocks.size());
    const Family families[] = {
        {.row = 1, .rows = rows, .lane = 0, .first = 0, .blocks = count}};
    Step step{};
    step.rows = rows + 1;  // one that adds nothing
    step.families_count = 1;
    step.families = families;
    step.blocks_count = count;
    step.blocks = blocks.data();
    step.inner = room<float>(inner);
    const int64_t stride = MODULES * D_OUT;
    float* y = numbers(step.rows * stride);
    print(name,
          {op_of(kind, {numbers(step.rows * D_IN), y, room<float>((rows + 32) * D_IN)},
                 {D_IN, D_OUT, stride, 0, MODULES})},
          step, {floats(y, step.rows * stride)});
}

// -- the backbone's products, of two modules; some rows have a trunk, which has the second one's

void linear(int64_t rows, int64_t d_in, int64_t d_out, bool adds) {
    const int64_t quads = (d_in + 3) / 4, padded = whole(d_out, 32), stride = 2 * d_out;
    Delta* const trunk = room<Delta>(2);
    trunk[1].kind = TRUNK;
    Step step{};
    step.rows = rows;
    const Segment segments[] = {
        {.row = 0, .rows = rows / 2, .trunk = nullptr},
        {.row = rows / 2, .rows = rows - rows / 2, .trunk = trunk}};
    if (rows > 1) {
        step.segments_count = 2;
        step.segments = segments;
    }
    float *x = numbers(rows * d_in), *y = numbers(rows * stride);
    trunk[1].values = numbers(padded * d_in);
    print("float32 linear",
          {op_of(LINEAR_F32, {x, numbers(2 * padded * d_in), y, room<float>(rows * d_in)},
                 {d_in, d_out, stride, adds, 0, 2})},
          step, {floats(y, rows * stride)});
    trunk[1].values = random_bytes(padded * quads * 4);
    trunk[1].b = numbers(padded);
    print("int8 linear",
          {op_of(LINEAR_I8,
                 {x, random_bytes(2 * padded * quads * 4), y, room<float>(rows * (d_in + 7)),
                  numbers(2 * padded)},
                 {d_in, d_out, stride, adds, 0, 2})},
          step, {floats(y, rows * stride)});
}

// -- attention: three prompts, and four rows of which two neighbours read one of them

void attention(int64_t d_kv, bool is_half) {
    constexpr int64_t HEADS = 2, LENGTH = 96, LONGEST = 90, ROWS = 4;
    const int64_t inner = HEADS * d_kv, cache = ROWS * inner * LENGTH;
    const int64_t starts[] = {0, 5, 75}, lengths[] = {5, 70, 16}, places[] = {2, 0, 1};
    const int64_t bytes = cache * (is_half ? 2 : 4);  // of the prompts' caches
    float *keys = room<float>(cache), *values = room<float>(cache);
    void *source_keys = room<uint16_t>(bytes / 2), *source_values = room<uint16_t>(bytes / 2);
    Step step{};
    step.rows = 91;
    step.sequences = 3;
    step.starts = starts;
    step.lengths = lengths;
    step.source_places = places;
    float* out = room<float>(step.rows * inner);
    print("attend in prompts",
          {op_of(ATTEND_PROMPTS,
                 {numbers(step.rows * 3 * inner, 3), out, numbers(HEADS * (2 * LONGEST - 1))},
                 {HEADS, d_kv, LONGEST})},
          step, {floats(out, step.rows * inner)});
    print("store prompts",
          {op_of(STORE_SOURCE, {numbers(step.rows * 2 * inner, 2), source_keys, source_values},
                 {HEADS, d_kv, LENGTH, is_half})},
          step, {{source_keys, bytes}, {source_values, bytes}});
    const int64_t read[] = {0, 0, 2, 1}, tokens[] = {70, 70, 5, 16}, own[] = {3, 0, 2, 1};
    step.rows = step.sequences = ROWS;
    step.lengths = tokens;
    step.source_places = read;
    step.target_rows = own;
    print("attend to prompts",
          {op_of(ATTEND_CROSS, {numbers(ROWS * inner, 3), out, source_keys, source_values},
                 {HEADS, d_kv, LENGTH, is_half})},
          step, {floats(out, ROWS * inner)});
    const int64_t positions[] = {0, 15, 16, 77};
    step.positions = positions;
    print("attend to own tokens",
          {op_of(ATTEND_SELF,
                 {numbers(ROWS * 3 * inner, 3), out, keys, values, numbers(HEADS * LENGTH)},
                 {HEADS, d_kv, LENGTH})},
          step, {floats(out, ROWS * inner), floats(keys, cache), floats(values, cache)});
    const int64_t depths[] = {0, 1, 1, 2}, begins[] = {0, 1, -1, 3}, path[] = {0, 0, 1, 0, 1, 3};
    step.positions = depths;
    step.paths_at = begins;
    step.paths = path;
    print("attend to paths",
          {op_of(ATTEND_SELF,
                 {numbers(ROWS * 3 * inner, 3), out, keys, values, numbers(HEADS * LENGTH)},
                 {HEADS, d_kv, LENGTH})},
          step, {floats(out, ROWS * inner), floats(keys, cache), floats(values, cache)});
    step.paths_at = step.paths = nullptr;
    const int64_t from[] = {3, 1}, to[] = {0, 2}, same[] = {0, 17}, copied[] = {40, 33};
    step.rows = step.sequences = 2;
    step.source_places = from;
    step.target_rows = to;
    step.lengths = same;
    step.positions = copied;
    print("copy rows", {op_of(COPY, {keys, values}, {HEADS, d_kv, LENGTH})}, step,
          {floats(keys, cache), floats(values, cache)});
}

// -- what touches each number once

void elementwise(int64_t d) {
    constexpr int64_t ROWS = 3;
    const int32_t tokens[] = {4, 0, 6};
    Step step{};
    step.rows = ROWS;
    step.tokens = tokens;
    float* x = room<float>(ROWS * d);
    print("embed", {op_of(EMBED, {numbers(7 * d), x}, {d})}, step, {floats(x, ROWS * d)});
    float* y = room<float>(ROWS * d);
    Op norm = op_of(NORM, {x, numbers(d), y}, {d});
    norm.f[0] = 1e-6f;
    norm.f[1] = 0.125f;
    print("norm", {norm}, step, {floats(y, ROWS * d)});
    for (const Function function : {RELU, GELU_TANH, GELU, SILU})
        for (const float scale : {1.0f, 8.0f, 200.0f}) {
            float* own = numbers(ROWS * d, scale);
            print("activate", {op_of(ACTIVATE, {own}, {d, function})}, step, {floats(own, ROWS * d)});
            print("gate", {op_of(GATE, {numbers(ROWS * 2 * d, scale), y}, {d, function})}, step,
                  {floats(y, ROWS * d)});
        }
}

// -- from logits to tokens

void sampling(int64_t vocabulary) {
    constexpr int64_t ROWS = 7, WIDTH = 8, MOST = 6;
    const Sampling plain{
        .temperature = 0, .top_p = 1, .repetition_penalty = 1, .top_k = 0, .min_new_tokens = 0,
        .no_repeat_ngram_size = 0, .seed = 7, .wants_logprob = 1, .candidates = 0};
    Sampling all[ROWS - 1];
    for (Sampling& one : all) one = plain;
    all[1].temperature = 0.7;
    all[2].temperature = 1.5;
    all[2].top_p = 0.9;
    all[2].repetition_penalty = 1.3;
    all[2].min_new_tokens = 9;
    all[2].no_repeat_ngram_size = 2;
    all[3].temperature = 2;
    all[3].top_k = 40;
    all[4].candidates = MOST;
    all[5].candidates = 3;
    all[5].repetition_penalty = 0.8;
    const Sampling* samplings[ROWS] = {nullptr};
    for (int64_t i = 1; i < ROWS; ++i) samplings[i] = &all[i - 1];
    const int32_t tokens[] = {1, 2, 3, 4, 2, 3, 1};
    const int64_t rows[] = {0, 1, 2, 3, 4, 5, 6}, positions[] = {5, 5, 5, 5, 5, 5, 5};
    Step step{};
    step.rows = step.sequences = ROWS;
    step.tokens = tokens;
    step.target_rows = rows;
    step.positions = positions;
    step.samplings = samplings;
    int32_t* fed = room<int32_t>(ROWS * WIDTH);
    for (int64_t i = 0; i < ROWS * WIDTH; ++i) fed[i] = static_cast<int32_t>(i * i % 6);
    float *logits = numbers(ROWS * vocabulary, 6), *highest = room<float>(ROWS);
    logits[2 * vocabulary + 3] = logits[2 * vocabulary + 5];
    auto* found = room<int64_t>(ROWS);
    auto* logprobs = room<double>(ROWS);
    auto* ids = room<int32_t>(ROWS * MOST);
    float* listed = room<float>(ROWS * MOST);
    print("best", {op_of(BEST, {logits, highest, found}, {vocabulary})}, step,
          {floats(highest, ROWS), {found, ROWS * 8}});
    const Op choose = op_of(
        CHOOSE, {logits, highest, found, logprobs, fed, array<int64_t>({1}), ids, listed},
        {vocabulary, WIDTH, 1, MOST});
    // Log-probabilities as float: they have a logarithm of the C library's, which may differ at the
    // end of a double.
    print("choose", {choose}, step,
          {floats(highest, ROWS), {found, ROWS * 8}, {ids, ROWS * MOST * 4},
           floats(listed, ROWS * MOST)});
    float* rounded = room<float>(ROWS);
    for (int64_t i = 0; i < ROWS; ++i) rounded[i] = static_cast<float>(logprobs[i]);
    print("log-probabilities", {}, step, {floats(rounded, ROWS)});
    const int64_t edges_at[] = {0, 2, 2, 3, 3, 3, 3, 5};
    const int32_t edges[] = {4, 5, 0, 2, 3};
    auto* of_edges = room<double>(5);
    step.edges_at = edges_at;
    step.edges = edges;
    step.edge_logprobs = of_edges;
    print("best", {op_of(BEST, {logits, highest, found}, {vocabulary})}, step,
          {floats(highest, ROWS), {found, ROWS * 8}});
    print("read edges", {op_of(READ_EDGES, {logits, highest}, {vocabulary})}, step, {});
    float* values = room<float>(5);
    for (int64_t i = 0; i < 5; ++i) values[i] = static_cast<float>(of_edges[i]);
    print("edges", {}, step, {floats(values, 5)});
}

}  // namespace

int main(int count, char** given) {
    void* library = count == 2 ? dlopen(given[1], RTLD_NOW) : nullptr;
    if (library == nullptr) {
        std::fprintf(stderr, "digests LIBRARY: %s\n", count == 2 ? dlerror() : "no library is named");
        return 2;
    }
    if (reinterpret_cast<int (*)()>(dlsym(library, "jl_supported"))() == 0) {
        std::fprintf(stderr, "%s: not for this processor\n", given[1]);
        return 3;
    }
    replay = reinterpret_cast<Replay>(dlsym(library, "jl_run"));
    for (const int64_t rows : {1, 2, 5, 6, 13, 37})
        for (const bool adds : {false, true}) {
            linear(rows, 30, 37, adds);
            linear(rows, 96, 64, adds);
        }
    for (const int64_t rows : {1, 2, 3, 16}) deltas("few deltas", DELTA_FEW, rows);
    for (const int64_t rows : {1, 15, 17, 48, 64}) deltas("many deltas", DELTA_MANY, rows);
    for (const int64_t d_kv : {8, 16, 50, 64})
        for (const bool is_half : {false, true}) attention(d_kv, is_half);
    for (const int64_t d : {2, 19, 48, 130}) elementwise(d);
    for (const int64_t vocabulary : {12, 90, 3001}) sampling(vocabulary);
    return 0;
}
