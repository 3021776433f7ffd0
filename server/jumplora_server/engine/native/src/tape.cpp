// Replays a tape: the caller and its helpers walk the same operations.
#include "tape.h"

#include <pthread.h>

#include <chrono>
#include <condition_variable>
#include <cstdlib>
#include <mutex>
#include <system_error>
#include <thread>

#include "run.h"

namespace jl {

namespace {

void compute(const Op& op, const Team& team) {
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
        case BEST: return best(op, team);
    }
    std::abort();  // a tape of another version: its operations mean something else
}

void walk(const Run& run, double* seconds) {
    using Clock = std::chrono::steady_clock;
    auto began = Clock::now();
    for (size_t i = 0; i < run.ops.size(); ++i) {
        compute(run.ops[i], Team{run.step, run.threads, run.phases.get() + 2 * i});
        if (seconds == nullptr) continue;
        const auto now = Clock::now();
        seconds[i] += std::chrono::duration<double>(now - began).count();
        began = now;
    }
}

// Threads that help with the newest run and sleep in between. They are never joined: the process
// ends without them. Where the system gives fewer threads than asked for, fewer help.
class Helpers {
  public:
    void offer(const std::shared_ptr<Run>& run) {
        {
            const std::lock_guard lock(mutex_);
            try {
                for (; started_ < run->threads - 1; ++started_)
                    std::thread([this, number = started_] { serve(number); }).detach();
            } catch (const std::system_error&) {
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
        for (uint64_t seen = 0;;) {
            std::shared_ptr<Run> run;
            {
                std::unique_lock lock(mutex_);
                offered_.wait(lock, [&] { return offers_ != seen; });
                seen = offers_;
                run = run_;
            }
            if (run != nullptr && number < run->threads - 1) walk(*run, nullptr);
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
// replaced is never freed: threads may still use it.
void renew() { of_this_process = new Helpers; }

Helpers& helpers() {
    static const int registered = (renew(), pthread_atfork(nullptr, nullptr, renew));
    static_cast<void>(registered);
    return *of_this_process;
}

}  // namespace

}  // namespace jl

// Replays `count` operations with up to `threads` threads, the caller being one. Where `seconds`
// [count] is given, what each took is added to it.
extern "C" __attribute__((visibility("default"))) void jl_run(
    const jl::Op* ops, int64_t count, const jl::Step* step, int threads, double* seconds) {
    if (step->rows <= 0) return;
    const auto run = std::make_shared<jl::Run>(ops, count, *step, threads);
    if (threads <= 1) return jl::walk(*run, seconds);
    jl::Helpers& helpers = jl::helpers();
    helpers.offer(run);
    jl::walk(*run, seconds);
    helpers.withdraw(run);
}
