#include "work.h"

#include <algorithm>
#include <atomic>
#include <new>
#include <thread>

namespace hetconv {

namespace {

struct Work {
  void (*item)(const void*, size_t, void*);
  const void* argument;
  const Scratch* scratch;
  size_t bytes, items, workers;
  std::atomic<bool> failed;
};

// One worker's share. A contiguous one: neighbouring items share inputs.
void work(void* argument, size_t worker) {
  Work& w = *static_cast<Work*>(argument);
  const size_t begin = w.items * worker / w.workers, end = w.items * (worker + 1) / w.workers;
  if (begin == end) return;
  void* memory = w.scratch->allocate(w.scratch->context, w.bytes);
  if (!memory) {  // no exception may leave a thread of somebody else's pool
    w.failed = true;
    return;
  }
  for (size_t i = begin; i < end; i++) w.item(w.argument, i, memory);
  w.scratch->free(w.scratch->context, memory);
}

}  // namespace

void share_out(size_t items, size_t bytes, void (*item)(const void* argument, size_t i, void* memory),
               const void* argument, const Parallel& parallel, const Scratch& scratch) {
  // Some shares more than two threads need, so that they end together; and one for each core, as far as there are
  // items.
  static const size_t cores = std::thread::hardware_concurrency();
  Work w{item, argument, &scratch, bytes, items, std::min(items, std::max<size_t>(8, cores)), {false}};
  parallel.run(parallel.context, work, w.workers, &w);
  if (w.failed) throw std::bad_alloc();
}

}  // namespace hetconv
