// The kernels for a caller without C++: plain functions, for the tests and for PyTorch.
#include <algorithm>
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <string>
#include <thread>

#include "int8_layer.h"

using namespace hetconv;

namespace {

// GOMP_parallel of an OpenMP runtime that the caller has loaded: its threads wait already, and next to them threads of
// our own would find the cores taken. This library is linked to no such runtime.
using OpenMP = void (*)(void (*work)(void*), void* argument, unsigned threads, unsigned flags);

struct Pool {
  size_t threads;
  OpenMP openmp;  // null: threads started for each run
};

struct Team {
  void (*work)(void*, size_t);
  void* argument;
  size_t count;
  std::atomic<size_t> next;

  static void member(void* team) {  // right for any size that the team turns out to have
    Team& t = *static_cast<Team*>(team);
    for (size_t i; (i = t.next++) < t.count;) t.work(t.argument, i);
  }
};

void run_threads(void* context, void (*work)(void*, size_t), size_t count, void* argument) {
  const Pool& pool = *static_cast<Pool*>(context);
  const size_t threads = std::min(pool.threads, count);
  Team team{work, argument, count, {0}};
  if (threads < 2) return Team::member(&team);
  if (pool.openmp) return pool.openmp(Team::member, &team, threads, 0);
  std::vector<std::thread> others;
  try {
    for (size_t t = 1; t < threads; t++) others.emplace_back(Team::member, &team);
  } catch (const std::exception&) {  // no more threads to be had: those that there are do it
  }
  Team::member(&team);
  for (std::thread& other : others) other.join();
}

void* allocate(void*, size_t bytes) { return std::aligned_alloc(64, (bytes + 63) / 64 * 64); }
void release(void*, void* memory) { std::free(memory); }

uint64_t mixed(uint64_t sum, uint64_t word) {
  sum ^= word;
  return (sum << 29 | sum >> 35) * 0x9E3779B185EBCA87u;
}

uint64_t checksum(const char* data, size_t bytes) {
  constexpr size_t kLanes = 8;  // at once, as a multiplication takes longer than the next one waits
  uint64_t lanes[kLanes] = {1, 2, 3, 4, 5, 6, 7, 8}, words[kLanes], sum = bytes;
  for (; bytes >= sizeof(words); data += sizeof(words), bytes -= sizeof(words)) {
    std::memcpy(words, data, sizeof(words));
    for (size_t i = 0; i < kLanes; i++) lanes[i] = mixed(lanes[i], words[i]);
  }
  std::memset(words, 0, sizeof(words));
  std::memcpy(words, data, bytes);
  for (size_t i = 0; i < kLanes; i++) sum = mixed(sum, mixed(lanes[i], words[i]));
  return sum;
}

constexpr size_t kPiece = 1 << 18;

struct Pieces {
  const char* data;
  size_t bytes;
  std::vector<uint64_t> sums;

  static void sum(void* pieces, size_t i) {
    Pieces& p = *static_cast<Pieces*>(pieces);
    p.sums[i] = checksum(p.data + i * kPiece, std::min(kPiece, p.bytes - i * kPiece));
  }
};

template <class Body>
int guarded(char* error, size_t size, Body body) {
  try {
    body();
    return 0;
  } catch (const std::exception& e) {
    std::snprintf(error, size, "%s", e.what());
    return 1;
  }
}

LayerShape shape_of(const int32_t* numbers) {
  LayerShape s;
  static_assert(sizeof(s) == 13 * sizeof(int32_t), "the shape is 13 numbers");
  std::memcpy(&s, numbers, sizeof(s));
  return s;
}

Algorithm algorithm_of(int32_t number) {
  if (number < 0 || number >= kAlgorithms) throw std::invalid_argument("unknown algorithm");
  return static_cast<Algorithm>(number);
}

const Isa& isa_of(const char* name) { return name && *name ? find_isa(name) : best_isa(); }

Layer training_layer(const int32_t* shape, const float* w, const float* w_kxk, const float* bias, bool opposite,
                     int32_t algorithm, const char* isa) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  const Weights weights{w, w_kxk, bias, -kInfinity, kInfinity, true, opposite};
  return Layer(shape_of(shape), weights, algorithm_of(algorithm), isa_of(isa));
}

}  // namespace

#define HETCONV_API extern "C" __attribute__((visibility("default")))

// Names of the instruction sets, best first, those that this machine has; separated by spaces.
HETCONV_API const char* hetconv_isas() {
  static const std::string names = isa_names();
  return names.c_str();
}

HETCONV_API const char* hetconv_int8_isas() {
  static const std::string names = int8_isa_names();
  return names.c_str();
}

// The weights must live as long as the layer. shape: in_channels, out_channels, part, then kernel, stride, dilation (2
// each) and pads (4).
HETCONV_API int hetconv_create(const int32_t* shape, const float* w, const float* w_kxk, const float* bias, float low,
                               float high, int32_t algorithm, const char* isa, void** layer, char* error, size_t size) {
  return guarded(error, size, [&] {
    *layer = new Layer(shape_of(shape), {w, w_kxk, bias, low, high}, algorithm_of(algorithm), isa_of(isa));
  });
}

HETCONV_API void hetconv_destroy(void* layer) { delete static_cast<Layer*>(layer); }

HETCONV_API size_t hetconv_weight_bytes(const void* layer) { return static_cast<const Layer*>(layer)->weight_bytes(); }

HETCONV_API int hetconv_output_size(const void* layer, int64_t height, int64_t width, int64_t* out, char* error,
                                    size_t size) {
  return guarded(error, size, [&] { static_cast<const Layer*>(layer)->output_size(height, width, out, out + 1); });
}

// openmp: GOMP_parallel, or null.
HETCONV_API int hetconv_run(const void* layer, const float* x, const float* residual, float* y, int64_t batch,
                            int64_t height, int64_t width, size_t threads, void* openmp, char* error, size_t size) {
  return guarded(error, size, [&] {
    Pool pool{threads, reinterpret_cast<OpenMP>(openmp)};
    static_cast<const Layer*>(layer)->run(x, residual, y, batch, height, width, {run_threads, &pool},
                                          {allocate, release, nullptr});
  });
}

// A quantised layer, as in int8_layer.h; w, w_kxk, scale and bias are copied. floats: low, high, y_scale, z_scale.
// ints: x_zero_point, whether y is float, y_zero_point, whether z is float, z_zero_point.
HETCONV_API int hetconv_int8_create(const int32_t* shape, const int8_t* w, const int8_t* w_kxk, const float* scale,
                                    const float* bias, const float* floats, const int32_t* ints, const char* isa,
                                    void** layer, char* error, size_t size) {
  return guarded(error, size, [&] {
    const Int8Weights weights{w,         w_kxk,   scale,        bias,      floats[0], floats[1], ints[0], ints[1] != 0,
                              floats[2], ints[2], ints[3] != 0, floats[3], ints[4]};
    *layer = new Int8Layer(shape_of(shape), weights, isa && *isa ? find_int8_isa(isa) : best_int8_isa());
  });
}

HETCONV_API void hetconv_int8_destroy(void* layer) { delete static_cast<Int8Layer*>(layer); }

HETCONV_API int hetconv_int8_output_size(const void* layer, int64_t height, int64_t width, int64_t* out, char* error,
                                         size_t size) {
  return guarded(error, size,
                 [&] { output_size(static_cast<const Int8Layer*>(layer)->shape(), height, width, out, out + 1); });
}

HETCONV_API int hetconv_int8_run(const void* layer, const uint8_t* x, const void* residual, void* y, int64_t batch,
                                 int64_t height, int64_t width, size_t threads, char* error, size_t size) {
  return guarded(error, size, [&] {
    Pool pool{threads, nullptr};
    static_cast<const Int8Layer*>(layer)->run(x, residual, y, batch, height, width, {run_threads, &pool},
                                              {allocate, release, nullptr});
  });
}

// For training, where weights change with every call. shape as of hetconv_create; w (N, M), w_kxk (N, M/P, K*K - 1),
// without the centre.
//
// y = HetConv(x), or with `opposite`, at stride 1, the gradient to the input: x is the gradient of the output then, and
// the shape's in_channels are the weights' N.
HETCONV_API int hetconv_train(const int32_t* shape, const float* w, const float* w_kxk, const float* bias,
                              int32_t opposite, const float* x, float* y, int64_t batch, int64_t height, int64_t width,
                              size_t threads, void* openmp, int32_t algorithm, const char* isa, char* error,
                              size_t size) {
  return guarded(error, size, [&] {
    Pool pool{threads, reinterpret_cast<OpenMP>(openmp)};
    training_layer(shape, w, w_kxk, bias, opposite != 0, algorithm, isa)
        .run(x, nullptr, y, batch, height, width, {run_threads, &pool}, {allocate, release, nullptr});
  });
}

// grad_w (N, M) and grad_w_kxk (N, M/P, K*K - 1) from the input and the gradient of the output.
HETCONV_API int hetconv_weight_gradient(const int32_t* shape, const float* x, const float* grad, float* grad_w,
                                        float* grad_w_kxk, int64_t batch, int64_t height, int64_t width, size_t threads,
                                        void* openmp, const char* isa, char* error, size_t size) {
  return guarded(error, size, [&] {
    Pool pool{threads, reinterpret_cast<OpenMP>(openmp)};
    training_layer(shape, grad_w, grad_w_kxk, nullptr, false, 0, isa)
        .weight_gradient({{batch, height, width, 0, 0}, x, grad, grad_w, grad_w_kxk}, {run_threads, &pool});
  });
}

// A number that changes with the content, whoever changed it.
HETCONV_API uint64_t hetconv_checksum(const void* data, size_t bytes, size_t threads, void* openmp) {
  Pieces pieces{static_cast<const char*>(data), bytes, std::vector<uint64_t>((bytes + kPiece - 1) / kPiece)};
  Pool pool{threads, reinterpret_cast<OpenMP>(openmp)};
  run_threads(&pool, Pieces::sum, pieces.sums.size(), &pieces);
  return checksum(reinterpret_cast<const char*>(pieces.sums.data()), pieces.sums.size() * sizeof(uint64_t));
}

// The algorithm that a layer takes for an input, by its number; -1 for an input that it refuses.
HETCONV_API int32_t hetconv_algorithm(const void* layer, int64_t batch, int64_t height, int64_t width) {
  try {
    return static_cast<int32_t>(static_cast<const Layer*>(layer)->algorithm_for(batch, height, width));
  } catch (const std::invalid_argument&) {
    return -1;
  }
}
