// From a row's logits to its token. engine/sampling_reference.py says the same slowly, and
// engine/sampling.py in torch.
//
// To add a parameter: a field of Sampling (tape.h, layout.py) and a function in one of the two lists.
#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>

#include "candidates.h"
#include "run.h"
#include "simd.h"

namespace jl {

namespace {

// What is known of a row beside its logits.
struct Row {
    const Sampling& sampling;
    const float* logits;  // [vocabulary] as the model has them
    const int32_t* fed;   // [position + 1] the start token, and the tokens chosen so far
    int64_t position;
    const int64_t* ends;  // [ends_count] the tokens that end an answer
    int64_t ends_count;
    // With beams, what makes log-probabilities of the logits: it is taken off before the edits.
    float top = 0, mass = 0;

    float before_edits(int64_t token) const { return logits[token] - top - mass; }
};

// -- the parameters, in the order in which they count

// CTRL's repetition penalty (arXiv 1909.05858, section 4.1), sign-aware as in transformers, where the
// start token counts, too.
void penalise_repetition(const Row& row, float* x) {
    const auto penalty = static_cast<float>(row.sampling.repetition_penalty);
    if (penalty == 1) return;
    for (int64_t i = 0; i <= row.position; ++i) {
        const float given = row.before_edits(row.fed[i]);  // a token may come twice
        x[row.fed[i]] = given > 0 ? given / penalty : given * penalty;
    }
}

// The tokens that would complete an n-gram that stands already, the start token's among them, as in
// transformers.
void forbid_repeated_ngrams(const Row& row, float* x) {
    const int64_t size = row.sampling.no_repeat_ngram_size, count = row.position + 1;
    if (size == 0 || size > count) return;
    const int32_t* const stop = row.fed + count;
    for (const int32_t* last = row.fed + size - 1; last < stop; ++last)
        if (std::equal(stop - (size - 1), stop, last - (size - 1))) x[*last] = -INFINITY;
}

void forbid_an_early_end(const Row& row, float* x) {
    if (row.position >= row.sampling.min_new_tokens) return;
    for (int64_t i = 0; i < row.ends_count; ++i) x[row.ends[i]] = -INFINITY;
}

void keep_top_k(const Row& row, Candidates& candidates) {
    if (row.sampling.top_k > 0) candidates.keep_highest(row.sampling.top_k);
}

void keep_top_p(const Row& row, Candidates& candidates) {
    if (row.sampling.top_p < 1) candidates.keep_heaviest(row.sampling.top_p);
}

constexpr void (*EDITS[])(const Row&, float* x) = {
    penalise_repetition, forbid_repeated_ngrams, forbid_an_early_end};
constexpr void (*SELECTIONS[])(const Row&, Candidates&) = {keep_top_k, keep_top_p};

// --

struct Highest {
    float logit;  // NaN where one is
    int64_t token;  // of equals the first
};

Highest find_highest(const float* x, int64_t count) {
    vec high = fill(-INFINITY);
    lanes wrong = 0;
    for (int64_t j = 0; j < count; j += LANES) {
        const vec value = load_or(x + j, count - j, -INFINITY);
        wrong |= unordered(value);
        high = higher(high, value);
    }
    if (wrong != 0) return {NAN, 0};
    const float top = highest_lane(high);
    for (int64_t j = 0;; j += LANES) {
        const lanes found = tail_mask(count - j) & equal(load_some(x + j, count - j), fill(top));
        if (found != 0) return {top, j + std::countr_zero(found)};
    }
}

// SplitMix64's number of that position (Steele, Lea and Flood, OOPSLA 2014), as one in [0, 1).
double uniform(uint64_t seed, int64_t position) {
    uint64_t z = seed + (static_cast<uint64_t>(position) + 1) * 0x9E3779B97F4A7C15;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB;
    return static_cast<double>((z ^ (z >> 31)) >> 11) * 0x1p-53;
}

// Log of the sum of e^(logit - top).
double log_mass(const float* x, int64_t count, float top) {
    wide sum = fill_wide(0);
    for (int64_t j = 0; j < count; j += LANES)
        sum = plus(sum, widen(exp_ps(minus(load_or(x + j, count - j, -INFINITY), fill(top)))));
    return std::log(sum_lanes(sum));
}

// The likeliest tokens of a row with beams, written to `ids` and `logprobs`, of which there are `most`:
// one of -infinity stands behind the last. As transformers has it, log-probabilities are edited.
Highest list_likeliest(
    const Row& row, int64_t count, float* scratch, int64_t most, int32_t* ids, float* logprobs) {
    const vec top = fill(row.top), mass = fill(row.mass);
    for (int64_t j = 0; j < count; j += LANES)  // there is room for whole vectors
        store(scratch + j, minus(minus(load_or(row.logits + j, count - j, -INFINITY), top), mass));
    for (const auto edit : EDITS) edit(row, scratch);
    const Highest highest = find_highest(scratch, count);
    if (!std::isfinite(highest.logit)) return highest;
    Candidates candidates(scratch, count, highest.logit, 1);
    candidates.keep_highest(std::min(row.sampling.candidates, most));
    const int64_t listed = candidates.list(ids, logprobs);
    if (listed < most) logprobs[listed] = -INFINITY;
    return highest;
}

// `scratch` has room for all tokens' candidates. A logit that is not finite stands for no token.
Highest choose_one(const Row& row, int64_t count, float* scratch) {
    std::memcpy(scratch, row.logits, count * sizeof(float));
    for (const auto edit : EDITS) edit(row, scratch);
    const Highest highest = find_highest(scratch, count);
    if (row.sampling.temperature == 0 || !std::isfinite(highest.logit)) return highest;
    Candidates candidates(scratch, count, highest.logit, row.sampling.temperature);
    for (const auto select : SELECTIONS) select(row, candidates);
    return {highest.logit, candidates.draw(uniform(row.sampling.seed, row.position))};
}

}  // namespace

// p: logits [rows, d], highest [rows], token [rows] int64.  n: d.
// Of equals the first; a row that holds NaN gets NaN.
void best(const Op& op, const Team& team) {
    const int64_t d = op.n[0];
    team.share(0, team.step.rows, [&](int64_t i) {
        const Highest found = find_highest(static_cast<const float*>(op.p[0]) + i * d, d);
        static_cast<float*>(op.p[1])[i] = found.logit;
        static_cast<int64_t*>(op.p[2])[i] = found.token;
    });
}

// p: logits [rows, d], highest [rows], token [rows] int64, log-probability [rows] double, fed tokens
// [cache rows, width] int32, end tokens [count] int64, candidates' ids [rows, most] int32 and
// log-probabilities [rows, most].  n: d, width, count, most.
// After `best`, whose findings it replaces for the rows that have a Sampling. A row that can choose
// nothing gets a highest logit that is not finite. What a row was fed is written down as it comes.
void choose(const Op& op, const Team& team) {
    const Step& step = team.step;
    if (step.samplings == nullptr) return;
    const int64_t d = op.n[0], width = op.n[1], most = op.n[3];
    const auto ends = static_cast<const int64_t*>(op.p[5]);
    team.share(0, step.rows, [&](int64_t i) {
        const Sampling* const sampling = step.samplings[i];
        if (sampling == nullptr) return;
        const float* logits = static_cast<const float*>(op.p[0]) + i * d;
        int32_t* fed = static_cast<int32_t*>(op.p[4]) + step.target_rows[i] * width;
        fed[step.positions[i]] = step.tokens[i];
        float& highest = static_cast<float*>(op.p[1])[i];
        if (!std::isfinite(highest)) return;
        float* const scratch = team.scratch(Candidates::room(d));
        if (scratch == nullptr) return;
        const float top = highest;
        Row row{*sampling, logits, fed, step.positions[i], ends, op.n[2]};
        Highest chosen;
        if (sampling->candidates == 0) {
            chosen = choose_one(row, d, scratch);
        } else {
            row.top = top;
            row.mass = static_cast<float>(log_mass(logits, d, top));
            chosen = list_likeliest(
                row, d, scratch, most, static_cast<int32_t*>(op.p[6]) + i * most,
                static_cast<float*>(op.p[7]) + i * most);
        }
        highest = chosen.logit;
        static_cast<int64_t*>(op.p[2])[i] = chosen.token;
        if (sampling->wants_logprob != 0 && std::isfinite(chosen.logit))
            static_cast<double*>(op.p[3])[i] =
                double{logits[chosen.token]} - top - log_mass(logits, d, top);
    });
}

// p: logits [rows, d], highest [rows].  n: d.
// After `best`. Where a row's highest logit is not finite, its edges' log-probabilities are NaN.
void read_edges(const Op& op, const Team& team) {
    const Step& step = team.step;
    if (step.edges_at == nullptr) return;
    const int64_t d = op.n[0];
    team.share(0, step.rows, [&](int64_t i) {
        const int64_t first = step.edges_at[i], stop = step.edges_at[i + 1];
        if (first == stop) return;
        const float* logits = static_cast<const float*>(op.p[0]) + i * d;
        const float top = static_cast<const float*>(op.p[1])[i];
        const double mass = std::isfinite(top) ? log_mass(logits, d, top) : NAN;
        for (int64_t e = first; e < stop; ++e)
            step.edge_logprobs[e] = double{logits[step.edges[e]]} - top - mass;
    });
}

}  // namespace jl
