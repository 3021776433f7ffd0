// One replay of a tape, and how threads share it.
//
// Nobody waits for a thread, only for work: an operation is over when all its pieces are done, and a
// piece belongs to whoever took it. A thread that the system does not let run holds nothing up unless
// it sits on a piece; when it is back it walks past what the others did without it. On a machine whose
// cores are also wanted by an event loop this is what keeps a step's time.
#pragma once

#include <sched.h>

#include <atomic>
#include <cstdint>
#include <memory>
#include <vector>

#include "simd.h"
#include "tape.h"

namespace jl {

// Pieces of one phase of an operation.
struct Phase {
    std::atomic<int64_t> taken{0}, done{0};
};

// Everything a late thread may still look at is copied: it can outlive the caller's step.
struct Run {
    Run(const Op* first, int64_t count, const Step& step, int threads)
        : ops(first, first + count),
          segments(step.segments, step.segments + step.segments_count),
          step(step),
          threads(threads),
          phases(new Phase[2 * count]) {
        this->step.segments = segments.data();
        for (Op& op : ops) {
            if (op.kind == DELTA_FEW || op.kind == DELTA_MANY) settle_delta(op, step);
            if (op.kind == LINEAR_F32 || op.kind == LINEAR_I8) settle_linear(op, step);
        }
    }

    std::vector<Op> ops;
    const std::vector<Segment> segments;
    Step step;
    const int threads;
    const std::unique_ptr<Phase[]> phases;  // two an operation
    mutable std::atomic<int> outcome{DONE};
};

// What a kernel sees of the run that it belongs to.
struct Team {
    const Step& step;
    const int threads;
    Phase* phases;
    std::atomic<int>& outcome;
    Scratch& own;

    // At least `count` floats of this thread's, or null: then the run has failed, and the piece is to
    // return. Nothing is thrown, because that takes memory of the thread's own.
    float* scratch(int64_t count) const {
        float* const found = own.floats(count);
        if (found == nullptr) outcome.store(OUT_OF_MEMORY, std::memory_order_relaxed);
        return found;
    }

    // compute(i) once for every piece i, by whichever thread is there; returns when all are done.
    // The arrays that the step points to may be touched inside of compute only, and nothing may be
    // allocated outside of it. A piece that throws all the same fails the run, and counts as done so
    // that no thread waits for it. What is left of a failed run is walked through, not computed.
    template <typename Compute>
    void share(int phase, int64_t pieces, Compute&& compute) const {
        Phase& work = phases[phase];
        for (int64_t i; (i = work.taken.fetch_add(1, std::memory_order_relaxed)) < pieces;) {
            if (outcome.load(std::memory_order_relaxed) == DONE) {
                try {
                    compute(i);
                } catch (...) {
                    outcome.store(BROKEN, std::memory_order_relaxed);
                }
            }
            work.done.fetch_add(1, std::memory_order_release);
        }
        for (int spins = 0; work.done.load(std::memory_order_acquire) < pieces; ++spins) {
            if (spins < SPINS) {
                relax();
            } else {
                sched_yield();
            }
        }
    }

    static constexpr int SPINS = 4000;  // about 50 us before the processor is given away
};

}  // namespace jl
