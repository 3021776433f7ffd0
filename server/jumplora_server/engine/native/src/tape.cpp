// Replays a tape: every thread walks the same operations and meets its mates after each.
#include "tape.h"

#include <immintrin.h>
#include <omp.h>
#include <sched.h>

#include <chrono>
#include <memory>

namespace jl {

constexpr int SPINS = 4000;  // about 50 us of waiting before the processor is given away

void Barrier::wait() {
    if (threads_ == 1) return;
    const int mine = generation_.load(std::memory_order_relaxed);
    if (arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 == threads_) {
        arrived_.store(0, std::memory_order_relaxed);
        generation_.store(mine + 1, std::memory_order_release);
        return;
    }
    for (int spins = 0; generation_.load(std::memory_order_acquire) == mine; ++spins) {
        if (spins < SPINS) {
            _mm_pause();
        } else {
            sched_yield();
        }
    }
}

static void compute(const Op& op, const Team& team) {
    switch (op.kind) {
        case EMBED: return embed(op, team);
        case NORM: return norm(op, team);
        case LINEAR_F32: return linear_f32(op, team);
        case LINEAR_I8: return linear_i8(op, team);
        case DELTA_FEW: return delta_few(op, team);
        case DELTA_MANY: return delta_many(op, team);
        case RELU: return relu(op, team);
        case GATED_GELU: return gated_gelu(op, team);
        case ATTEND_PROMPTS: return attend_prompts(op, team);
        case STORE_SOURCE: return store_source(op, team);
        case ATTEND_SELF: return attend_self(op, team);
        case ATTEND_CROSS: return attend_cross(op, team);
    }
}

}  // namespace jl

// Replays `count` operations. Where `seconds` [count] is given, what each took is added to it.
extern "C" __attribute__((visibility("default"))) void jl_run(
    const jl::Op* ops, int64_t count, const jl::Step* step, int threads, double* seconds) {
    using Clock = std::chrono::steady_clock;
    std::unique_ptr<std::atomic<int64_t>[]> next(new std::atomic<int64_t>[2 * count]());
    jl::Barrier barrier;
#pragma omp parallel num_threads(threads)
    {
        const int team_size = omp_get_num_threads();  // the runtime may give fewer
#pragma omp single
        barrier.size(team_size);
        const int thread = omp_get_thread_num();
        auto began = Clock::now();
        for (int64_t i = 0; i < count; ++i) {
            jl::compute(ops[i], jl::Team{*step, thread, team_size, barrier, next.get() + 2 * i});
            barrier.wait();
            if (seconds != nullptr && thread == 0) {
                const auto now = Clock::now();
                seconds[i] += std::chrono::duration<double>(now - began).count();
                began = now;
            }
        }
    }
}
