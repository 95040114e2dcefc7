// Memory for packed weights.
#pragma once

#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <mutex>
#include <new>
#include <utility>

#ifdef __linux__
#include <sys/mman.h>
#endif

namespace hetconv {

// Zeros, aligned for vectors, with room behind that may be read. Those of 2 MiB and more are asked for in huge pages:
// weights are read from end to end, and at 4 KiB a page the look-up of the next page, where prefetching ends too, took
// 3 % of a network's time.
class Buffer {
 public:
  explicit Buffer(size_t floats = 0) : Buffer(floats, nullptr) {
    const size_t bytes = bytes_of(floats);
    memory_ = {allocate(floats * sizeof(float) >= kHuge ? kHuge : kLine, bytes), std::free};
    std::memset(memory_.get(), 0, bytes);
  }
  Buffer(Buffer&&) = default;
  Buffer& operator=(Buffer&&) = default;

  // For what stays: small ones lie side by side in huge pages. A page lasts as long as one of them, the newest for
  // ever; what is freed in it is not used again.
  static Buffer lasting(size_t floats) {
    static std::mutex mutex;
    static std::shared_ptr<float> page;
    static size_t used = kHuge;
    const size_t bytes = (bytes_of(floats) + kLine - 1) / kLine * kLine;
    if (kSanitized || !floats || bytes > kHuge / 2) return Buffer(floats);
    std::lock_guard<std::mutex> lock(mutex);
    if (used + bytes > kHuge) page = {allocate(kHuge, kHuge), std::free}, used = 0;
    Buffer buffer(floats, {page, page.get() + used / sizeof(float)});
    used += bytes;
    std::memset(buffer.data(), 0, bytes);
    return buffer;
  }
  float* data() const { return memory_.get(); }
  size_t size() const { return size_; }

 private:
  static constexpr size_t kHuge = size_t{2} << 20, kLine = 64;
#ifdef __SANITIZE_ADDRESS__
  static constexpr bool kSanitized = true;  // each in memory of its own, so that what is read beside it shows
#else
  static constexpr bool kSanitized = false;
#endif
  Buffer(size_t floats, std::shared_ptr<float> memory) : memory_(std::move(memory)), size_(floats) {}
  static size_t bytes_of(size_t floats) { return (floats + 32) * sizeof(float); }
  static float* allocate(size_t align, size_t bytes) {
    void* p = nullptr;
    if (posix_memalign(&p, align, bytes)) throw std::bad_alloc();
#ifdef MADV_HUGEPAGE
    if (align == kHuge) madvise(p, bytes / kHuge * kHuge, MADV_HUGEPAGE);  // as much as there is; may be refused
#endif
    return static_cast<float*>(p);
  }

  std::shared_ptr<float> memory_;
  size_t size_;
};

}  // namespace hetconv
