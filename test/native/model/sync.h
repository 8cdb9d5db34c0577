// Included before everything else (g++ -include): replaces the mutex and the condition variable of the real
// native/write_windows.cc, so that its threads can be coroutines of one real thread. Nothing else is replaced.
#pragma once

#include <algorithm>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

namespace model {

// Stops the running coroutine until `ready` holds, and lets the scheduler choose who runs.
void block_until(const std::function<bool()>& ready);
// A coroutine is about to wait for a condition: notes what it remembers of the moment, for the state's hash.
void enter_wait();

[[noreturn]] inline void bug(const char* text) {
  std::printf("bug in the model or in the locking: %s\n", text);
  std::exit(3);
}

}  // namespace model

namespace std {

// Coroutines switch at system calls and waits only, so the mutex is never contended, unless it is held
// across a system call: then the next one to lock it ends up here.
class model_mutex {
 public:
  void lock() {
    if (locked_) model::bug("the mutex is held across a system call");
    locked_ = true;
  }
  void unlock() { locked_ = false; }

 private:
  bool locked_ = false;
};

class model_condition_variable {
 public:
  // A missing notify_all is found, too: a waiter looks again only after one.
  void notify_all() { generation_ += 1; }

  template <class Lock, class Predicate>
  void wait(Lock& lock, Predicate predicate) {
    model::enter_wait();
    while (!predicate()) {
      const uint64_t seen = generation_;
      lock.unlock();
      model::block_until([this, seen] { return generation_ != seen; });
      lock.lock();
    }
  }

 private:
  uint64_t generation_ = 0;
};

}  // namespace std

#define mutex model_mutex
#define condition_variable model_condition_variable
// The checker hashes the bookkeeping.
#define private public
