// Memory for packed weights.
#pragma once

#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>

#ifdef __linux__
#include <sys/mman.h>
#endif

namespace hetconv {

// Zeros, aligned for vectors, with room behind that may be read. Large ones are asked for in huge pages: weights are
// read from end to end, and at 4 KiB a page the look-up of the next page, where prefetching ends too, took 3 % of a
// network's time.
class Buffer {
 public:
  explicit Buffer(size_t floats = 0) : size_(floats) {
    constexpr size_t kHuge = size_t{2} << 20, kLine = 64;
    const size_t align = floats * sizeof(float) >= kHuge ? kHuge : kLine;
    const size_t bytes = (floats + 32) * sizeof(float);
    void* p = nullptr;
    if (posix_memalign(&p, align, bytes)) throw std::bad_alloc();
#ifdef MADV_HUGEPAGE
    if (align == kHuge) madvise(p, bytes / kHuge * kHuge, MADV_HUGEPAGE);  // as much as there is; may be refused
#endif
    memory_.reset(static_cast<float*>(std::memset(p, 0, bytes)));
  }
  float* data() const { return memory_.get(); }
  size_t size() const { return size_; }

 private:
  struct Free {
    void operator()(float* p) const { std::free(p); }
  };
  std::unique_ptr<float[], Free> memory_;
  size_t size_;
};

}  // namespace hetconv
