// What touches each activation once: embedding, norm and the feed-forward's nonlinearities.
#include <cmath>
#include <cstring>

#include "run.h"
#include "simd.h"

namespace jl {

// p: table [vocab, d], x [rows, d].  n: d.
void embed(const Op& op, const Team& team) {
    const int64_t d = op.n[0];
    team.share(0, team.step.rows, [&](int64_t i) {
        const float* from = static_cast<const float*>(op.p[0]) + team.step.tokens[i] * d;
        std::memcpy(static_cast<float*>(op.p[1]) + i * d, from, d * sizeof(float));
    });
}

// p: x [rows, d], weight [d], y [rows, d].  n: d.  f: epsilon, constant factor.
void norm(const Op& op, const Team& team) {
    const int64_t d = op.n[0];
    const float* weight = static_cast<const float*>(op.p[1]);
    team.share(0, team.step.rows, [&](int64_t i) {
        const float* x = static_cast<const float*>(op.p[0]) + i * d;
        float* y = static_cast<float*>(op.p[2]) + i * d;
        vec squares[2] = {fill(0), fill(0)};
        for (int64_t j = 0; j < d; j += LANES) {
            const vec value = load_some(x + j, d - j);
            vec& sum = squares[(j / LANES) % 2];
            sum = fused(value, value, sum);
        }
        const float mean = sum_lanes(plus(squares[0], squares[1])) / d;
        const vec scale = fill(op.f[1] / std::sqrt(mean + op.f[0]));
        for (int64_t j = 0; j < d; j += LANES) {
            const vec value = times(load_some(x + j, d - j), scale);
            store_some(y + j, d - j, times(value, load_some(weight + j, d - j)));
        }
    });
}

namespace {

inline vec one() { return fill(1.0f); }

// The second operand is what the maximum is where one is no number.
struct Relu {
    static vec of(vec x) { return higher(fill(0.0f), x); }
};

// x (1 + tanh u) / 2 = x / (1 + e^(-2 u)), u = sqrt(2 / pi) (x + 0.044715 x^3).
struct GeluTanh {
    static vec of(vec x) {
        const vec bend = fused(times(x, x), fill(0.044715f), one());
        return over(x, plus(one(), exp_ps(times(times(x, bend), fill(-2.0f * 0.79788456f)))));
    }
};

// x P(x), P the normal distribution's share below x. That is 1 - Q(x), and Q(-x) for a negative x,
// with Q(z) = e^(-z^2 / 2) q(t) / 2 and t = 1 / (1 + p z / sqrt(2)), to 7.5e-8 (Abramowitz and
// Stegun 7.1.26).
struct Gelu {
    static vec of(vec x) {
        const vec z = higher(x, minus(fill(0.0f), x));
        const vec t = over(one(), fused(z, fill(0.3275911f * 0.70710678f), one()));
        vec q = fill(0.5f * 1.061405429f);
        for (const float term : {-1.453152027f, 1.421413741f, -0.284496736f, 0.254829592f})
            q = fused(q, t, fill(0.5f * term));
        const vec above_z = times(times(q, t), exp_ps(times(times(z, z), fill(-0.5f))));
        return times(x, where_above(fill(0.0f), x, above_z, minus(one(), above_z)));
    }
};

struct Silu {
    static vec of(vec x) { return over(x, plus(one(), exp_ps(minus(fill(0.0f), x)))); }
};

template <class F>
void activate_rows(const Op& op, const Team& team) {
    const int64_t d = op.n[0];
    team.share(0, team.step.rows, [&](int64_t i) {
        float* x = static_cast<float*>(op.p[0]) + i * d;
        for (int64_t j = 0; j < d; j += LANES)
            store_some(x + j, d - j, F::of(load_some(x + j, d - j)));
    });
}

template <class F>
void gate_rows(const Op& op, const Team& team) {
    const int64_t d = op.n[0];
    team.share(0, team.step.rows, [&](int64_t i) {
        const float* gate = static_cast<const float*>(op.p[0]) + i * 2 * d;
        float* y = static_cast<float*>(op.p[1]) + i * d;
        for (int64_t j = 0; j < d; j += LANES) {
            const vec value = load_some(gate + d + j, d - j);
            store_some(y + j, d - j, times(F::of(load_some(gate + j, d - j)), value));
        }
    });
}

// compute<F>() for the function that an operation names.
template <typename Compute>
void with_function(int64_t function, const Team& team, Compute&& compute) {
    switch (function) {
        case RELU: return compute.template operator()<Relu>();
        case GELU_TANH: return compute.template operator()<GeluTanh>();
        case GELU: return compute.template operator()<Gelu>();
        case SILU: return compute.template operator()<Silu>();
    }
    team.outcome.store(BROKEN, std::memory_order_relaxed);
}

}  // namespace

// p: x [rows, d], in place.  n: d, a Function.
void activate(const Op& op, const Team& team) {
    with_function(op.n[1], team, [&]<typename F>() { activate_rows<F>(op, team); });
}

// p: x [rows, 2 d] (gate, value), y [rows, d].  n: d, a Function.
void gate(const Op& op, const Team& team) {
    with_function(op.n[1], team, [&]<typename F>() { gate_rows<F>(op, team); });
}

}  // namespace jl
