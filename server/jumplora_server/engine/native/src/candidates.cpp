// Selections from the candidates of a row: linear in their number, whatever they are.
#include "candidates.h"

#include <algorithm>
#include <bit>
#include <cfloat>
#include <cmath>
#include <functional>
#include <limits>
#include <numeric>

#include "tape.h"

namespace jl {

namespace {

constexpr int64_t BLOCK = 512;     // weights that are summed before their sum is added
constexpr int BUCKETS = 2048;      // of one look at a range of logits
constexpr int64_t FEW = 64;        // candidates that are rather sorted
constexpr int64_t ALL = std::numeric_limits<int64_t>::max();

struct Range {
    float low, high;
};

Range range_of(const float* x, int64_t count) {
    vec depth = fill(-INFINITY), high = fill(-INFINITY);
    for (int64_t j = 0; j < count; j += LANES) {
        depth = higher(depth, minus(fill(0), load_or(x + j, count - j, INFINITY)));
        high = higher(high, load_or(x + j, count - j, -INFINITY));
    }
    return {-highest_lane(depth), highest_lane(high)};
}

// Takes a few candidates by rank until their masses reach `goal`; the border behind them.
template <typename Mass>
Border take_few(const float* x, int64_t count, double goal, Mass mass) {
    int order[FEW];
    std::iota(order, order + count, 0);
    std::sort(order, order + count, [x](int a, int b) { return x[a] != x[b] ? x[a] > x[b] : a < b; });
    Border border{x[order[0]], 0};
    for (int64_t i = 0; i < count && goal > 0; ++i) {
        if (x[order[i]] != border.value) border = {x[order[i]], 0};
        ++border.ties;
        goal -= mass(order[i]);
    }
    return border;
}

// The same of many that are all equal.
template <typename Mass>
Border take_equals(const float* x, int64_t count, double goal, Mass mass) {
    Border border{x[0], 0};
    for (; border.ties < count && goal > 0; ++border.ties) goal -= mass(border.ties);
    return border;
}

}  // namespace

Candidates::Candidates(float* scratch, int64_t count, float top, double temperature)
    : count_(count), top_(top), temperature_(temperature),
      weights_(reinterpret_cast<double*>(scratch + 2 * padded(count))),
      x_(scratch),
      ids_(reinterpret_cast<int32_t*>(scratch + padded(count))),
      part_(scratch + 4 * padded(count)),
      part_ids_(reinterpret_cast<int32_t*>(scratch + 5 * padded(count))),
      buckets_(reinterpret_cast<int32_t*>(scratch + 6 * padded(count))) {}

void Candidates::keep(Border border) {
    if (!is_listed_) std::iota(ids_, ids_ + count_, 0);
    is_listed_ = true;
    const vec value = fill(border.value);
    int64_t kept = 0;
    for (int64_t j = 0; j < count_; j += LANES) {
        const lanes here = tail_mask(count_ - j);
        const vec x = load_some(x_ + j, count_ - j);
        lanes ties = here & equal(x, value);
        while (std::popcount(ties) > border.ties) ties ^= std::bit_floor(ties);
        border.ties -= std::popcount(ties);
        const lanes which = ties | (here & above(x, value));
        if (which == 0) continue;
        pack_lanes(x_ + kept, which, x_ + j);
        pack_lanes(ids_ + kept, which, ids_ + j);
        if (is_weighed_) pack_lanes(weights_ + kept, which, weights_ + j);
        kept += std::popcount(which);
    }
    if (is_weighed_) store_wide(weights_ + kept, fill_wide(0));  // the sums take whole vectors
    count_ = kept;
}

void Candidates::keep_highest(int64_t most) {
    if (most >= count_) return;
    keep({floor_of(most), ALL});
    keep(reach(static_cast<double>(most), [](int64_t) { return 1.0; }));
}

void Candidates::keep_heaviest(double share) {
    weigh();
    const double goal = share * mass();
    // Those below weigh together at most half of what need not be reached.
    const double rest = std::log((1 - share) / (2 * static_cast<double>(count_)));
    keep({static_cast<float>(std::max<double>(top_ + temperature_ * rest, -FLT_MAX)), ALL});
    keep(reach(goal, [this](int64_t i) { return weights_[i]; }));
}

int64_t Candidates::draw(double point) {
    weigh();
    const double goal = point * mass();
    double passed = 0;
    int64_t found = count_ - 1, from = 0;
    for (; from < count_; from += BLOCK) {
        const double block = block_mass(from);
        if (passed + block > goal) break;
        passed += block;
    }
    for (int64_t i = from; i < std::min(from + BLOCK, count_); ++i) {
        passed += weights_[i];
        if (weights_[i] > 0) found = i;
        if (passed > goal) break;
    }
    while (weights_[found] == 0) --found;  // where rounding kept the sum from passing the goal
    return is_listed_ ? ids_[found] : found;
}

int64_t Candidates::list(int32_t* ids, float* logits) {
    int32_t* const order = part_ids_;
    int64_t listed = 0;
    for (int64_t i = 0; i < count_; ++i)
        if (x_[i] != -INFINITY) order[listed++] = static_cast<int32_t>(i);
    std::sort(order, order + listed, [this](int32_t a, int32_t b) {
        return x_[a] != x_[b] ? x_[a] > x_[b] : a < b;
    });
    for (int64_t i = 0; i < listed; ++i) {
        ids[i] = is_listed_ ? ids_[order[i]] : order[i];
        logits[i] = x_[order[i]];
    }
    return listed;
}

void Candidates::weigh() {
    if (is_weighed_) return;
    is_weighed_ = true;
    const wide top = fill_wide(top_), rate = fill_wide(1 / temperature_);
    for (int64_t j = 0; j < count_; j += LANES) {
        const wide x = widen(load_or(x_ + j, count_ - j, -INFINITY));  // what is not there weighs 0
        store_wide(weights_ + j, exp_wide(times(minus(x, top), rate)));
    }
}

double Candidates::mass() const {
    double sum = 0;
    for (int64_t from = 0; from < count_; from += BLOCK) sum += block_mass(from);
    return sum;
}

double Candidates::block_mass(int64_t from) const {
    wide sum = fill_wide(0);
    const int64_t stop = std::min(from + BLOCK, count_);
    for (int64_t j = from; j < stop; j += LANES) sum = plus(sum, load_wide(weights_ + j));
    return sum_lanes(sum);
}

// A value that the `most` highest reach and few others do: of the highest of each of some groups, the
// one of that rank. Where the groups would be small there is none: -infinity.
float Candidates::floor_of(int64_t most) {
    const int64_t vectors = (count_ + LANES - 1) / LANES, each = 2 * vectors / most;
    if (each < 2) return -INFINITY;
    int64_t groups = 0;
    for (int64_t first = 0; first < vectors; first += each, groups += LANES) {
        vec high = fill(-INFINITY);
        for (int64_t j = LANES * first; j < std::min(LANES * (first + each), count_); j += LANES)
            high = higher(high, load_or(x_ + j, count_ - j, -INFINITY));
        store(part_ + groups, high);
    }
    std::nth_element(part_, part_ + most - 1, part_ + groups, std::greater<float>());
    return part_[most - 1];
}

// The border behind the candidates that, taken by rank, first have `goal` of mass(candidate). Sorts
// them into buckets, then those of the border's bucket, until few are left.
template <typename Mass>
Border Candidates::reach(double goal, Mass mass) {
    const float* x = x_;
    int64_t count = count_;
    const auto place = [&](int64_t i) { return x == x_ ? i : part_ids_[i]; };
    const auto mass_here = [&](int64_t i) { return mass(place(i)); };
    for (;;) {
        const auto [low, high] = range_of(x, count);
        if (count <= FEW) return take_few(x, count, goal, mass_here);
        if (low == high) return take_equals(x, count, goal, mass_here);
        // Below every float, so that the highest of some, if it is the least float, is above it.
        const double bottom = std::max(double{low}, -2.0 * FLT_MAX);
        const double scale = (BUCKETS - 1) / (high - bottom);
        for (int64_t i = 0; i < count; ++i)
            buckets_[i] = static_cast<int>(std::min((double{high} - x[i]) * scale, BUCKETS - 1.0));
        double masses[BUCKETS] = {};
        for (int64_t i = 0; i < count; ++i) masses[buckets_[i]] += mass_here(i);
        int border = 0;  // the last that weighs anything, where rounding keeps the sum below the goal
        double before = 0, passed = 0;
        for (int b = 0; b < BUCKETS && passed < goal; ++b) {
            if (masses[b] == 0) continue;
            border = b;
            before = passed;
            passed += masses[b];
        }
        goal -= before;
        int64_t kept = 0;
        for (int64_t i = 0; i < count; ++i) {
            if (buckets_[i] != border) continue;
            const int32_t at = place(i);
            part_[kept] = x[i];
            part_ids_[kept++] = at;
        }
        x = part_;
        count = kept;
    }
}

}  // namespace jl
