// The shape of packed weights, which dense and low-rank deltas use too.
#pragma once

#include <algorithm>
#include <cstdint>

namespace jl {

constexpr int64_t PANEL = 32;  // outputs of a panel

}  // namespace jl
