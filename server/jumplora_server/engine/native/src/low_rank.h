// Low-rank deltas, y += (x A^T) B^T. The inner product x A^T is computed once for all outputs of a
// block, and kept transposed: [rank][lanes], a row of the block in each lane.
#pragma once

#include "tape.h"

namespace jl {

// Numbers of a row of A: whole vectors, the last of them filled up with zeros.
inline int64_t factor_stride(int64_t d_in) { return (d_in + LANES - 1) / LANES * LANES; }

// inner[j][r] = x[r] A[j]^T for rows x [rows, d_in].
void multiply_inner(
    const Delta& delta, const float* x, int64_t d_in, int64_t rows, float* inner, int64_t lanes);

// y[r, o] += sum over j of inner[j][r] B[o, j] for o in [from, to); `from` begins a panel.
void add_outer(
    const Delta& delta, const float* inner, int64_t lanes, int64_t rows, float* y,
    int64_t y_stride, int64_t from, int64_t to);

}  // namespace jl
