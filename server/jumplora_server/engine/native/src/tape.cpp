// Replays a tape: the caller and its helpers walk the same operations.
#include "tape.h"

#include <pthread.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <exception>
#include <mutex>
#include <new>
#include <thread>

#include "run.h"

namespace jl {

namespace {

void compute(const Op& op, const Team& team) {
    switch (op.kind) {
        case NOTHING: return;
        case EMBED: return embed(op, team);
        case NORM: return norm(op, team);
        case LINEAR_F32: return linear_f32(op, team);
        case LINEAR_I8: return linear_i8(op, team);
        case DELTA_FEW: return delta_few(op, team);
        case DELTA_MANY: return delta_many(op, team);
        case ACTIVATE: return activate(op, team);
        case GATE: return gate(op, team);
        case ATTEND_PROMPTS: return attend_prompts(op, team);
        case STORE_SOURCE: return store_source(op, team);
        case ATTEND_SELF: return attend_self(op, team);
        case ATTEND_CROSS: return attend_cross(op, team);
        case BEST: return best(op, team);
        case CHOOSE: return choose(op, team);
        case COPY: return copy_rows(op, team);
        case READ_EDGES: return read_edges(op, team);
    }
    // A tape of another version: its operations mean something else.
    team.outcome.store(BROKEN, std::memory_order_relaxed);
}

void walk(const Run& run, double* seconds, Scratch& own) {
    using Clock = std::chrono::steady_clock;
    auto began = Clock::now();
    for (size_t i = 0; i < run.ops.size(); ++i) {
        compute(run.ops[i], Team{run.step, run.threads, run.phases.get() + 2 * i, run.outcome, own});
        if (seconds == nullptr) continue;
        const auto now = Clock::now();
        seconds[i] += std::chrono::duration<double>(now - began).count();
        began = now;
    }
}

// Threads that help with the newest run and sleep in between. They are never joined: the process
// ends without them. Where the system gives fewer threads than asked for, or has no memory for one,
// fewer help.
class Helpers {
  public:
    void offer(const std::shared_ptr<Run>& run) {
        {
            const std::lock_guard lock(mutex_);
            try {
                for (; started_ < run->threads - 1; ++started_)
                    std::thread([this, number = started_] { serve(number); }).detach();
            } catch (const std::exception&) {
            }
            run_ = run;
            ++offers_;
        }
        offered_.notify_all();
    }

    void withdraw(const std::shared_ptr<Run>& run) {
        const std::lock_guard lock(mutex_);
        if (run_ == run) run_.reset();
    }

  private:
    [[noreturn]] void serve(int number) {
        Scratch own;
        for (uint64_t seen = 0;;) {
            std::shared_ptr<Run> run;
            {
                std::unique_lock lock(mutex_);
                offered_.wait(lock, [&] { return offers_ != seen; });
                seen = offers_;
                run = run_;
            }
            if (run != nullptr && number < run->threads - 1) walk(*run, nullptr, own);
        }
    }

    std::mutex mutex_;
    std::condition_variable offered_;
    std::shared_ptr<Run> run_;
    uint64_t offers_ = 0;
    int started_ = 0;
};

Helpers* of_this_process = nullptr;

// A fork copies the lock, in whatever state, and none of the threads, so a child begins anew. What is
// replaced is never freed: threads may still use it. A child without memory for it has none.
void renew() { of_this_process = new (std::nothrow) Helpers; }

Helpers* helpers() {
    static const int registered = pthread_atfork(nullptr, nullptr, renew);
    static_cast<void>(registered);
    if (of_this_process == nullptr) renew();
    return of_this_process;
}

// The scratch of whoever calls, kept from one run to the next; a second caller at a time has its own.
std::atomic<Scratch*> spare{nullptr};

class Borrowed {
  public:
    Borrowed() : scratch_(spare.exchange(nullptr)) {
        if (scratch_ == nullptr) scratch_ = new Scratch;
    }
    ~Borrowed() { delete spare.exchange(scratch_); }
    Scratch& operator*() const { return *scratch_; }

  private:
    Scratch* scratch_;
};

int replay(const Op* ops, int64_t count, const Step& step, int threads, double* seconds) {
    const Borrowed own;
    const auto run = std::make_shared<Run>(ops, count, step, threads);
    Helpers* const others = threads > 1 ? helpers() : nullptr;
    if (others != nullptr) others->offer(run);
    walk(*run, seconds, *own);
    if (others != nullptr) others->withdraw(run);
    return run->outcome.load(std::memory_order_relaxed);
}

}  // namespace

}  // namespace jl

// Replays `count` operations with up to `threads` threads, the caller being one. Where `seconds`
// [count] is given, what each took is added to it. Returns an Outcome; nothing is thrown into C.
extern "C" __attribute__((visibility("default"))) int jl_run(
    const jl::Op* ops, int64_t count, const jl::Step* step, int threads, double* seconds) noexcept {
    if (step->rows <= 0) return jl::DONE;
    // Has a thread's first run set up what throwing takes, which a later one may find no memory for.
    static_cast<void>(std::uncaught_exceptions());
    try {
        return jl::replay(ops, count, *step, threads, seconds);
    } catch (const std::bad_alloc&) {
        return jl::OUT_OF_MEMORY;
    } catch (...) {
        return jl::BROKEN;
    }
}
