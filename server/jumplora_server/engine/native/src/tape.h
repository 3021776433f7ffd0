// What Python and the kernels share: the tape of operations, recorded once for a backbone, and the
// step, which is what changes from one replay to the next. Mirrored field by field in layout.py.
//
// One rule holds for every kernel: a row's numbers are computed in an order that depends on the row
// alone, so they have the same bits whatever rows stand beside it and however many threads there are.
#pragma once

#include <cstdint>

namespace jl {

enum Kind : int64_t {
    NOTHING = -1,    // a delta that no row of the step adds
    EMBED = 0,       // x[i] = table[tokens[i]]
    NORM,            // root mean square norm, times a weight and a constant
    LINEAR_F32,      // y = x W^T, or y += x W^T; W is a trunk's for its rows
    LINEAR_I8,       // the same with int8 weights and rows quantised to int8
    DELTA_FEW,       // y += x D^T for the few rows of a decode step
    DELTA_MANY,      // y += x D^T for the many tokens of an encode
    ACTIVATE,        // x = f(x)
    GATE,            // y = f(gate) * value
    ATTEND_PROMPTS,  // self-attention inside each prompt
    STORE_SOURCE,    // prompts' cross-attention keys and values into their places
    ATTEND_SELF,     // append one token's key and value, attend over the row's tokens
    ATTEND_CROSS,    // attend over the row's prompt
    BEST,            // the highest logit of each row and its token
    CHOOSE,          // the tokens of rows that sample, log-probabilities, and beams' candidates
    COPY,            // rows' first keys and values from other rows
    READ_EDGES,      // log-probabilities of the tokens that may follow nodes of tries
};

// What ACTIVATE and GATE apply to each number. layout.Function.
enum Function : int64_t { RELU, GELU_TANH, GELU, SILU };

// One operation. What the fields mean depends on the kind; each kernel names its own.
struct Op {
    int64_t kind;
    void* p[8];
    int64_t n[8];
    float f[2];
};

// One module's delta in one slot, or what a trunk has in place of the backbone's weight. Matrices
// are [d_out, d_in]; scales are folded in.
struct Delta {
    int64_t kind;            // a DeltaKind, or SPARSE | LOW_RANK
    int64_t value_type;      // a ValueType, of sparse values
    int64_t rank;            // of a low-rank delta
    const int32_t* offsets;  // sparse: [d_out + 1]
    const uint16_t* columns; // sparse: [nnz], ascending in each row
    const void* values;      // sparse: [nnz]; dense: panels of float; trunk: the backbone's panels
    const float* a;          // low rank: A [rank, d_in], rows filled up to whole vectors
    const float* b;          // low rank: panels of B [d_out, rank]; trunk: scales of int8 panels
};
enum DeltaKind : int64_t { NO_DELTA = 0, SPARSE = 1, DENSE = 2, LOW_RANK = 4, TRUNK = 8 };
enum ValueType : int64_t { VALUE_F32, VALUE_F16, VALUE_BF16 };

// A slot has a table: one Delta for each module.
//
// Neighbouring rows whose lineages begin with one trunk; without one the backbone's weights are used.
struct Segment {
    int64_t row;         // first row
    int64_t rows;
    const Delta* trunk;  // a table, or null
};

// Neighbouring rows that add the deltas of one table.
struct Block {
    int64_t row;         // first row
    int64_t rows;        // how many: 1 to those of its family
    const Delta* table;
    int64_t inner;       // first number of its part of Step.inner
};

// Neighbouring rows, and their blocks: those of a table that others stand on come before these, so
// that each row adds its deltas oldest first. Families share no row.
struct Family {
    int64_t row;     // first row
    int64_t rows;    // how many: 1 to MAX_LANES, of a decode to LANES
    int64_t lane;    // first lane of the transposed scratch
    int64_t first;   // index into Step.blocks
    int64_t blocks;  // how many
};
constexpr int64_t LANES = 16;  // floats of a vector
constexpr int64_t MAX_LANES = 64;

// How one row's tokens are chosen where the highest logit alone is not the answer. core.Sampling.
struct Sampling {
    double temperature;  // 0: the highest
    double top_p;        // 1: all
    double repetition_penalty;
    int64_t top_k;  // 0: all
    int64_t min_new_tokens;
    int64_t no_repeat_ngram_size;  // 0: any may come again
    uint64_t seed;
    int64_t wants_logprob;
    int64_t candidates;  // of a row with beams; 0: it has none
};

// How a replay ended; anything but DONE makes its numbers worthless. layout.Outcome.
enum Outcome : int { DONE, OUT_OF_MEMORY, BROKEN };

// What one replay computes.
struct Step {
    int64_t rows;               // rows of activations: tokens of an encode, sequences of a decode
    int64_t sequences;
    const int32_t* tokens;      // [rows]
    const int64_t* starts;      // encode: [sequences] first row of each prompt
    const int64_t* lengths;     // [sequences] source tokens; copies: tokens that are not copied
    const int64_t* source_places;  // [sequences] of their prompts; copies: the rows copied from
    const int64_t* target_rows;    // decode and copies: [sequences]
    const int64_t* positions;   // decode: [sequences] the position the token takes; copies: tokens
    int64_t segments_count;     // 0: no row has a trunk
    const Segment* segments;    // of all rows, in their order
    int64_t families_count;
    const Family* families;
    int64_t blocks_count;
    const Block* blocks;
    const uint8_t* targeted;  // a bit for each module that any of the tables adds to; null: all of them
    const uint8_t* merged;    // a bit for each module that any trunk has; null: all of them
    float* inner;  // room for x A^T of the low-rank deltas of an operation; null where there are none
    const Sampling* const* samplings;  // decode: [sequences] null where greedy does; or null itself
    // A decode with nodes of tries, each a row; or null.
    const int64_t* paths_at;  // [rows] where a node's part of `paths` begins; -1: the row is no node
    const int64_t* paths;     // of each node the rows on its path, position + 1 of them, itself last
    const int64_t* edges_at;  // [rows + 1] each row's part of `edges`
    const int32_t* edges;     // tokens
    double* edge_logprobs;    // what READ_EDGES finds, as many
};

// Whether one of `count` modules from the first has its bit.
inline bool has_any(const uint8_t* bits, int64_t first, int64_t count) {
    for (int64_t module = first; module < first + count; ++module)
        if (bits == nullptr || bits[module / 8] >> (module % 8) & 1) return true;
    return false;
}

struct Team;  // run.h

void embed(const Op&, const Team&);
void norm(const Op&, const Team&);
void activate(const Op&, const Team&);
void gate(const Op&, const Team&);
void linear_f32(const Op&, const Team&);
void linear_i8(const Op&, const Team&);
void delta_few(const Op&, const Team&);
void delta_many(const Op&, const Team&);
// What of an operation depends on the step alone, decided before threads walk it: a late one may find
// the step's arrays gone. A delta that no row adds becomes NOTHING.
void settle_delta(Op&, const Step&);
void settle_linear(Op&, const Step&);
void attend_prompts(const Op&, const Team&);
void store_source(const Op&, const Team&);
void attend_self(const Op&, const Team&);
void attend_cross(const Op&, const Team&);
void best(const Op&, const Team&);
void choose(const Op&, const Team&);
void copy_rows(const Op&, const Team&);
void read_edges(const Op&, const Team&);

}  // namespace jl
