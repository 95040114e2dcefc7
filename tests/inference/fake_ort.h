// As much of ONNX Runtime as the custom ops call, so that they run in a program of ours: with every line instrumented
// by a sanitizer, and with files and tensors that ONNX Runtime itself would not let through.
#pragma once

#include <algorithm>
#include <atomic>
#include <deque>
#include <map>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "ort_api.h"

extern "C" ort::Status* RegisterCustomOps(ort::SessionOptions* options, const ort::ApiBase* base);

namespace ort {

struct Status {
  std::string text;
};
struct Value {
  std::vector<int64_t> shape;
  std::vector<float> data;          // where the type is kFloat
  std::vector<uint8_t> bytes = {};  // of the other two
  Type type = kFloat;

  bool operator==(const Value& other) const {
    return shape == other.shape && data == other.data && bytes == other.bytes && type == other.type;
  }
};
struct ShapeInfo {
  std::vector<int64_t> dims;
  Type type;
};
struct KernelInfo {
  std::map<std::string, std::vector<int64_t>> lists;
  std::map<std::string, int64_t> integers;
  std::map<std::string, float> floats;
  std::map<std::string, std::string> texts;
  std::vector<const Value*> constants;  // by input; null where it is not constant
};
struct KernelContext {
  std::vector<const Value*> inputs;  // null where it is left out
  size_t threads;
  Value output;
};
struct Domain {
  std::string name;
  std::vector<const CustomOp*> ops;
};
struct SessionOptions {
  std::map<std::string, std::string> config;
  std::vector<Domain*> domains;
};

}  // namespace ort

namespace fake {

using namespace ort;

constexpr size_t kMostElements = 1 << 18, kMostBytes = 64 << 20;  // more is refused, as where memory is short

// Pieces of memory from the allocator. Counted in relaxed order: any other would order the threads that count, and hide
// their races.
inline std::atomic<int64_t> live{0}, allocated{0};
inline void count(std::atomic<int64_t>* counter, int64_t by) { counter->fetch_add(by, std::memory_order_relaxed); }

inline Status* fail(const std::string& text) { return new Status{text}; }

constexpr char kNoWords[] = "an error without a text";

template <class Map, class Out>
Status* find(const Map& map, const char* name, Out* out) {
  const auto found = map.find(name);
  if (found == map.end()) return fail(std::string("no attribute ") + name);
  *out = found->second;
  return nullptr;
}

constexpr int64_t kPlenty = int64_t{1} << 60;
inline std::atomic<int64_t> left{kPlenty};  // pieces of memory that there still are

inline void* allocate(Allocator*, size_t bytes) {
  if (bytes > kMostBytes || left.fetch_sub(1, std::memory_order_relaxed) <= 0)
    throw std::bad_alloc();  // as ONNX Runtime's arena does
  count(&live, 1), count(&allocated, 1);
  return ::operator new(bytes, std::align_val_t(64));
}
inline void deallocate(Allocator*, void* memory) {
  count(&live, -1);
  ::operator delete(memory, std::align_val_t(64));
}

inline Status* output(KernelContext* context, size_t, const int64_t* dims, size_t n, Value** out) {
  double elements = 1;
  for (size_t i = 0; i < n; i++) elements *= dims[i];
  if (!(elements >= 0 && elements <= kMostElements)) return fail("no memory for the output");
  context->output.shape.assign(dims, dims + n);
  const size_t count = static_cast<size_t>(elements);
  if (context->output.type == kFloat) {
    context->output.data.assign(count, __builtin_nanf(""));
  } else {
    context->output.bytes.assign(count, uint8_t{0xA5});
  }
  *out = &context->output;
  return nullptr;
}

inline Status* parallel_for(const KernelContext* context, void (*work)(void*, size_t), size_t count, size_t,
                            void* argument) {
  std::vector<std::thread> others;
  std::atomic<size_t> next{0};
  auto share = [&] {
    for (size_t i; (i = next++) < count;) work(argument, i);
  };
  for (size_t t = 1; t < std::min(context->threads, count); t++) others.emplace_back(share);
  share();
  for (std::thread& other : others) other.join();
  return nullptr;
}

// A string of C: how much room it takes, and itself where there is some.
inline Status* copy_text(const std::string& text, char* out, size_t* size) {
  const size_t room = *size;
  *size = text.size() + 1;
  if (!out) return nullptr;
  if (room < *size) return fail("more text than room for it");
  std::copy_n(text.c_str(), *size, out);
  return nullptr;
}

// A slot's type is that of its function: a wrong one would show, as in ONNX Runtime.
template <class Function>
const void* slot(Function* function) {
  return reinterpret_cast<const void*>(function);
}

inline const void* const* table(uint32_t version) {
  static const std::vector<const void*> slots = [] {
    std::vector<const void*> s(300, nullptr);
    s[0] = slot(+[](int, const char* text) { return fail(text); });
    s[26] = slot(+[](const char* name, Domain** out) -> Status* {
      static std::deque<Domain> domains;  // the library never gives one back
      static std::mutex mutex;
      std::lock_guard<std::mutex> lock(mutex);
      *out = &domains.emplace_back(Domain{name, {}});
      return nullptr;
    });
    s[27] = slot(+[](Domain* domain, const void* op) -> Status* {
      domain->ops.push_back(static_cast<const CustomOp*>(op));
      return nullptr;
    });
    s[28] = slot(+[](SessionOptions* options, Domain* domain) -> Status* {
      options->domains.push_back(domain);
      return nullptr;
    });
    s[51] = slot(+[](const Value* value, void** out) -> Status* {
      const void* data = value->type == kFloat ? static_cast<const void*>(value->data.data()) : value->bytes.data();
      *out = const_cast<void*>(data);
      return nullptr;
    });
    s[60] = slot(+[](const ShapeInfo* info, int* out) -> Status* {
      *out = info->type;
      return nullptr;
    });
    s[61] = slot(+[](const ShapeInfo* info, size_t* out) -> Status* {
      *out = info->dims.size();
      return nullptr;
    });
    s[62] = slot(+[](const ShapeInfo* info, int64_t* out, size_t n) -> Status* {
      std::copy_n(info->dims.begin(), n, out);
      return nullptr;
    });
    s[65] = slot(+[](const Value* value, ShapeInfo** out) -> Status* {
      *out = new ShapeInfo{value->shape, value->type};
      return nullptr;
    });
    s[85] = slot(+[](const KernelInfo* info, const char* name, float* out) { return find(info->floats, name, out); });
    s[86] =
        slot(+[](const KernelInfo* info, const char* name, int64_t* out) { return find(info->integers, name, out); });
    s[87] = slot(+[](const KernelInfo* info, const char* name, char* out, size_t* size) -> Status* {
      std::string text;
      if (Status* status = find(info->texts, name, &text)) return status;
      return copy_text(text, out, size);
    });
    s[88] = slot(+[](const KernelContext* context, size_t* out) -> Status* {
      *out = context->inputs.size();
      return nullptr;
    });
    s[90] = slot(+[](const KernelContext* context, size_t i, const Value** out) -> Status* {
      *out = context->inputs.at(i);
      return nullptr;
    });
    s[91] = slot(output);
    s[93] = slot(+[](Status* status) { delete status; });
    s[99] = slot(+[](ShapeInfo* info) { delete info; });
    s[132] = slot(+[](Allocator* allocator) { delete allocator; });
    s[163] = slot(+[](const KernelInfo* info, const char* name, int64_t* out, size_t* size) -> Status* {
      std::vector<int64_t> values;
      if (Status* status = find(info->lists, name, &values)) return status;
      const size_t room = *size;
      *size = values.size();
      if (!out) return nullptr;
      if (room < values.size()) return fail("more values than room for them");
      std::copy(values.begin(), values.end(), out);
      return nullptr;
    });
    s[237] = slot(+[](const SessionOptions* options, const char* key, int* out) -> Status* {
      *out = options->config.count(key);
      return nullptr;
    });
    s[238] = slot(+[](const SessionOptions* options, const char* key, char* out, size_t* size) -> Status* {
      return copy_text(options->config.at(key), out, size);
    });
    s[249] = slot(+[](const KernelInfo* info, size_t i, int* constant, const Value** out) -> Status* {
      *out = i < info->constants.size() ? info->constants[i] : nullptr;
      *constant = *out != nullptr;
      return nullptr;
    });
    s[274] = slot(parallel_for);
    s[278] = slot(+[](const KernelInfo*, int, Allocator** out) -> Status* {
      *out = new Allocator{kApiVersion, allocate, deallocate, nullptr};
      return nullptr;
    });
    return s;
  }();
  return version <= kApiVersion ? slots.data() : nullptr;
}

// The ops, in the order in which they are registered.
enum OpKind {
  kHetConv2d,
  kConv,
  kMaxPool,
  kAveragePool,
  kQHetConv2d,
  kQConv,
  kQHetConv2dFloat,
  kQConvFloat,
  kQMaxPool,
  kQMean,
  kQuantize,
  kFloatConv,
  kNodes,
  kSequence = kNodes,
  kQSequence,
  kOps,
};
inline bool is_hetconv(int op) { return op == kHetConv2d || op == kQHetConv2d || op == kQHetConv2dFloat; }
inline bool is_int8_conv(int op) { return op >= kQHetConv2d && op <= kQConvFloat; }
inline bool is_conv(int op) { return is_int8_conv(op) || op == kHetConv2d || op == kConv || op == kFloatConv; }

// Adds a step to what makes a sequence: a node as `of` has it, on the sequence's inputs and on what steps before give.
inline void add_step(KernelInfo* sequence, const char* name, const KernelInfo& of, const std::vector<int64_t>& places) {
  std::string& names = sequence->texts["ops"];
  const int64_t step = std::count(names.begin(), names.end(), ' ');
  const std::string prefix = std::to_string(step) + ".";
  for (const auto& [key, value] : of.lists) sequence->lists[prefix + key] = value;
  for (const auto& [key, value] : of.integers) sequence->integers[prefix + key] = value;
  for (const auto& [key, value] : of.floats) sequence->floats[prefix + key] = value;
  sequence->texts[prefix + "name"] = name;
  sequence->lists[prefix + "inputs"] = places;
  sequence->integers[prefix + "slot"] = step % 2;
  names += std::string(name) + " ";
}

// A text where they were refused.
inline std::string ops(const std::map<std::string, std::string>& config, std::vector<const CustomOp*>* out) {
  static const ApiBase base{table, [] { return "1.20.0"; }};
  SessionOptions options{config, {}};
  if (Status* status = RegisterCustomOps(&options, &base)) {
    const std::string text = status->text.empty() ? kNoWords : status->text;
    delete status;
    return text;
  }
  *out = options.domains.at(0)->ops;
  return out->size() == kOps ? "" : "not the ops that are known here";
}

// A node, ready to run.
class Kernel {
 public:
  Kernel(const CustomOp* op, const KernelInfo& info) : op_(op) {
    error = text(op->create_v2(op, nullptr, &info, &kernel_));
  }
  Kernel(const Kernel&) = delete;
  ~Kernel() {
    if (kernel_) op_->destroy(kernel_);
  }
  // The result, or an empty one and a text.
  Value run(const std::vector<const Value*>& inputs, size_t threads, std::string* why) const {
    KernelContext context{inputs, threads, {}};
    context.output.type = static_cast<Type>(op_->output_type(op_, 0));
    *why = text(op_->compute_v2(kernel_, &context));
    return why->empty() ? context.output : Value{};
  }

  std::string error;  // empty where it was made

 private:
  static std::string text(Status* status) {
    if (!status) return "";
    const std::string text = status->text.empty() ? kNoWords : status->text;
    delete status;
    return text;
  }

  const CustomOp* op_;
  void* kernel_ = nullptr;
};

}  // namespace fake
