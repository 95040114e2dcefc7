#include "work.h"

#include <algorithm>
#include <atomic>
#include <new>
#include <thread>

namespace hetconv {

namespace {

constexpr size_t kMostRanges = 256;  // and so threads: 16 KiB on the stack

// Items in ranges of neighbours, which share inputs: as many as there may be threads, or more. A thread begins with a
// range of its own, and takes what is left of the others after that, so that all end together whatever their number.
struct Work {
  void (*item)(const void*, size_t, void*);
  const void* argument;
  const Scratch* scratch;
  size_t bytes, ranges;
  std::atomic<bool> failed;
  struct alignas(64) Range {  // a cache line each
    std::atomic<size_t> next;
    size_t end;
  } range[kMostRanges];

  // The next item of a range; false where there is none left.
  bool take(size_t r, size_t* i) {
    if (range[r].next.load(std::memory_order_relaxed) >= range[r].end) return false;
    *i = range[r].next.fetch_add(1, std::memory_order_relaxed);
    return *i < range[r].end;
  }
};

void work(void* argument, size_t first) {
  Work& w = *static_cast<Work*>(argument);
  void* memory = nullptr;
  for (size_t r = first, i; r < first + w.ranges; r++) {
    while (w.take(r % w.ranges, &i)) {
      if (!memory) memory = w.scratch->allocate(w.scratch->context, w.bytes);
      if (!memory) {  // no exception may leave a thread of somebody else's pool
        w.failed = true;
        return;
      }
      w.item(w.argument, i, memory);
    }
  }
  if (memory) w.scratch->free(w.scratch->context, memory);
}

}  // namespace

void share_out(size_t items, size_t bytes, void (*item)(const void* argument, size_t i, void* memory),
               const void* argument, const Parallel& parallel, const Scratch& scratch) {
  // For one thread or a few as many as InputTable makes equal shares of.
  static const size_t cores = std::thread::hardware_concurrency();
  Work w;  // not {}, which would clear all ranges: half of a first-level cache
  w.item = item, w.argument = argument, w.scratch = &scratch, w.bytes = bytes;
  w.ranges = std::min({items, std::max<size_t>(8, cores), kMostRanges});
  w.failed = false;
  for (size_t r = 0; r < w.ranges; r++) {
    w.range[r].next.store(items * r / w.ranges, std::memory_order_relaxed);
    w.range[r].end = items * (r + 1) / w.ranges;
  }
  parallel.run(parallel.context, work, w.ranges, &w);
  if (w.failed) throw std::bad_alloc();
}

}  // namespace hetconv
