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
        vec squares[2] = {_mm512_setzero_ps(), _mm512_setzero_ps()};
        for (int64_t j = 0; j < d; j += 16) {
            const vec value = _mm512_maskz_loadu_ps(tail_mask(d - j), x + j);
            vec& sum = squares[(j / 16) % 2];
            sum = _mm512_fmadd_ps(value, value, sum);
        }
        const float mean = _mm512_reduce_add_ps(_mm512_add_ps(squares[0], squares[1])) / d;
        const vec scale = _mm512_set1_ps(op.f[1] / std::sqrt(mean + op.f[0]));
        for (int64_t j = 0; j < d; j += 16) {
            const __mmask16 mask = tail_mask(d - j);
            const vec value = _mm512_mul_ps(_mm512_maskz_loadu_ps(mask, x + j), scale);
            _mm512_mask_storeu_ps(
                y + j, mask, _mm512_mul_ps(value, _mm512_maskz_loadu_ps(mask, weight + j)));
        }
    });
}

// p: x [rows, d], in place.  n: d.
void relu(const Op& op, const Team& team) {
    const int64_t d = op.n[0];
    team.share(0, team.step.rows, [&](int64_t i) {
        float* x = static_cast<float*>(op.p[0]) + i * d;
        for (int64_t j = 0; j < d; j += 16) {
            const __mmask16 mask = tail_mask(d - j);
            const vec value = _mm512_maskz_loadu_ps(mask, x + j);
            // The second operand is what max returns for NaN.
            _mm512_mask_storeu_ps(x + j, mask, _mm512_max_ps(_mm512_setzero_ps(), value));
        }
    });
}

// p: x [rows, 2 d] (gate, value), y [rows, d].  n: d.
// The tanh form of GELU: g (1 + tanh u) / 2 = g / (1 + e^(-2 u)), u = sqrt(2 / pi) (g + 0.044715 g^3).
void gated_gelu(const Op& op, const Team& team) {
    const int64_t d = op.n[0];
    const vec cubic = _mm512_set1_ps(0.044715f), one = _mm512_set1_ps(1.0f);
    const vec slope = _mm512_set1_ps(-2.0f * 0.79788456f);
    team.share(0, team.step.rows, [&](int64_t i) {
        const float* gate = static_cast<const float*>(op.p[0]) + i * 2 * d;
        float* y = static_cast<float*>(op.p[1]) + i * d;
        for (int64_t j = 0; j < d; j += 16) {
            const __mmask16 mask = tail_mask(d - j);
            const vec g = _mm512_maskz_loadu_ps(mask, gate + j);
            const vec bend = _mm512_fmadd_ps(_mm512_mul_ps(g, g), cubic, one);
            const vec e = exp_ps(_mm512_mul_ps(_mm512_mul_ps(g, bend), slope));
            const vec gelu = _mm512_div_ps(g, _mm512_add_ps(one, e));
            const vec value = _mm512_maskz_loadu_ps(mask, gate + d + j);
            _mm512_mask_storeu_ps(y + j, mask, _mm512_mul_ps(gelu, value));
        }
    });
}

}  // namespace jl
