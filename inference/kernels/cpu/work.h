// Work shared out to the threads and the memory of whoever calls.
#pragma once

#include <cstddef>

namespace hetconv {

// Calls work(argument, i) once for every i in [0, count), perhaps at the same time on several threads.
struct Parallel {
  void (*run)(void* context, void (*work)(void* argument, size_t i), size_t count, void* argument);
  void* context;
};

// Memory for the time of one run.
struct Scratch {
  void* (*allocate)(void* context, size_t bytes);
  void (*free)(void* context, void* memory);
  void* context;
};

// Calls item(argument, i, memory) once for every i in [0, items), where `memory` has so many bytes. Throws
// std::bad_alloc.
void share_out(size_t items, size_t bytes, void (*item)(const void* argument, size_t i, void* memory),
               const void* argument, const Parallel& parallel, const Scratch& scratch);

}  // namespace hetconv
