// The tokens that one row may still choose from, in the order of their ids, and their weights.
//
// Nothing is sorted: what is kept is all above a border, and of those equal to it the lowest ids. A
// draw walks the ids. What is summed is summed in one order, in double.
#pragma once

#include <cstdint>

#include "simd.h"

namespace jl {

// Keeps what is above `value`, and the first `ties` of what equals it.
struct Border {
    float value;
    int64_t ties;
};

class Candidates {
  public:
    // The scratch of `count` candidates, in floats.
    static int64_t room(int64_t count) { return 7 * padded(count); }

    // All tokens; the first `count` floats of the scratch are their logits, and `top` is the highest.
    // A token's weight is e^((logit - top) / temperature).
    Candidates(float* scratch, int64_t count, float top, double temperature);

    int64_t count() const { return count_; }

    // Drops all others.
    void keep(Border border);

    // Keeps the `most` highest logits; of equals the lowest ids.
    void keep_highest(int64_t most);

    // Keeps the fewest, the highest first, whose weights reach `share` of all.
    void keep_heaviest(double share);

    // The token with which the sum of the weights passes `point`, in [0, 1), of their sum.
    int64_t draw(double point);

    // Writes the ids and logits of those that are not -infinity, the highest first and of equals the
    // lower id; returns how many.
    int64_t list(int32_t* ids, float* logits);

  private:
    static int64_t padded(int64_t count) { return (count + 31) / 16 * 16; }

    void weigh();
    double mass() const;
    double block_mass(int64_t from) const;
    float floor_of(int64_t most);
    template <typename Mass>
    Border reach(double goal, Mass mass);

    int64_t count_;
    const float top_;
    const double temperature_;
    bool is_listed_ = false, is_weighed_ = false;
    // Each has room for `count` and a vector more.
    double* const weights_;
    float* const x_;
    int32_t* const ids_;  // token ids, once it is listed; before, all tokens are here
    float* const part_;   // what `reach` and `floor_of` look at
    int32_t* const part_ids_;
    int32_t* const buckets_;
};

}  // namespace jl
