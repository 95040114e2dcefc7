// Several ops as one, with their activations in memory of its own.
//
// ONNX Runtime takes some microseconds for a node whose kernel left its own code and data in no cache: a twentieth of
// a quantised ResNet-34.
#pragma once

#include <mutex>
#include <new>
#include <sstream>

#include "ort_kinds.h"

namespace ops {

class SequenceKernel {
 public:
  SequenceKernel(const ort::KernelInfo* node, const Options& options, ort::Type output) : memory_({node, "", {}}) {
    std::istringstream names(read_text({node, "", {}}, "ops"));
    for (std::string name; names >> name;) add(node, find_kind(name), options);
    if (steps_.empty()) refuse("ops is empty");
    if (steps_.back().kind->output != output) refuse("the last op gives another type");
  }

  void compute(ort::KernelContext* context) const {
    std::vector<ort::Tensor> inputs(inputs_), values;
    for (size_t i = 0; i < inputs_; i++) {
      if (!read_input(context, i, &inputs[i])) refuse("an input is missing");
    }
    // Where each value lies follows from how large those are that share a slot.
    values.reserve(steps_.size());
    std::vector<size_t> slots(slots_);
    const auto find = [&](int64_t place) { return place >= 0 ? &inputs[place] : &values[-1 - place]; };
    for (const Step& s : steps_) {
      const ort::Tensor *x = find(s.x), *z = s.has_z ? find(s.z) : nullptr;
      if (x->type != s.kind->inputs[0]) refuse(std::string(s.kind->name) + ": X is of another type");
      values.push_back({nullptr, s.kind->output, s.kernel->output(*x, z)});
      if (&s != &steps_.back()) slots[s.slot] = std::max(slots[s.slot], values.back().bytes());
    }
    values.back().data = output_of(context, values.back().axes);
    const Block block(memory_.scratch(), slots);
    Kept kept(memory_.scratch());
    const Means means{parallel_of(context), kept.scratch()};
    for (size_t i = 0; i < steps_.size(); i++) {
      const Step& s = steps_[i];
      if (i + 1 < steps_.size()) values[i].data = block.begin[s.slot];
      s.kernel->run(*find(s.x), s.has_z ? find(s.z) : nullptr, values[i], means);
    }
  }

 private:
  struct Step {
    const Kind* kind;
    std::unique_ptr<Kernel> kernel;
    int64_t x, z;  // a place: an input of the node, or -1 - i for what step i gives
    bool has_z;
    size_t slot;
  };

  // Memory for all slots.
  struct Block {
    Block(const Scratch& scratch_, const std::vector<size_t>& sizes) : scratch(scratch_) {
      size_t bytes = 0;
      for (size_t size : sizes) bytes += padded(size);
      memory = scratch.allocate(scratch.context, std::max<size_t>(bytes, 1));
      if (!memory) throw std::bad_alloc();
      char* next = static_cast<char*>(memory);
      for (size_t size : sizes) begin.push_back(next), next += padded(size);
    }
    ~Block() { scratch.free(scratch.context, memory); }
    static size_t padded(size_t size) { return (size + 63) / 64 * 64; }

    Scratch scratch;
    void* memory;
    std::vector<void*> begin;
  };

  // Scratch memory of the steps, which is kept for the next: a piece for each thread. Threads of ONNX Runtime call it,
  // which no exception may leave.
  class Kept {
   public:
    explicit Kept(const Scratch& from) : from_(from) {}
    Kept(const Kept&) = delete;
    ~Kept() {
      while (Piece* piece = idle_) idle_ = piece->next, from_.free(from_.context, piece);
    }
    Scratch scratch() {
      return {[](void* self, size_t bytes) { return static_cast<Kept*>(self)->take(bytes); },
              [](void* self, void* memory) { static_cast<Kept*>(self)->give_back(memory); }, this};
    }

   private:
    struct alignas(64) Piece {  // what comes before its memory
      Piece* next;
      size_t bytes;
    };

    void* take(size_t bytes) {
      std::lock_guard<std::mutex> lock(mutex_);
      for (Piece** piece = &idle_; *piece; piece = &(*piece)->next) {
        if ((*piece)->bytes < bytes) continue;
        Piece* found = *piece;
        *piece = found->next;
        return found + 1;
      }
      void* memory = from_.allocate(from_.context, sizeof(Piece) + bytes);
      return memory ? new (memory) Piece{nullptr, bytes} + 1 : nullptr;
    }
    void give_back(void* memory) {
      std::lock_guard<std::mutex> lock(mutex_);
      Piece* piece = static_cast<Piece*>(memory) - 1;
      piece->next = idle_, idle_ = piece;
    }

    Scratch from_;
    std::mutex mutex_;
    Piece* idle_ = nullptr;
  };

  void add(const ort::KernelInfo* node, const Kind& kind, const Options& options) {
    const int64_t number = static_cast<int64_t>(steps_.size());
    Info info{node, std::to_string(number) + ".", {}};
    info.inputs = read_list(info, "inputs");
    const size_t least = kind.count - kind.residual;
    if (info.inputs.size() < least || info.inputs.size() > kind.count)
      refuse(info.name("inputs") + " are too few or too many");
    Step step{&kind, nullptr, info.inputs[0], info.inputs[0], info.inputs.size() > least, 0};
    if (kind.residual && step.has_z) step.z = info.inputs.back();
    for (int64_t place : info.inputs) {
      if (place < -number || place >= kMostInputs) refuse(info.name("inputs") + " are not those of a node before");
    }
    for (int64_t place : {step.x, step.z})
      inputs_ = std::max(inputs_, static_cast<size_t>(std::max<int64_t>(place + 1, 0)));
    step.slot = narrow(read(info, "slot"), "slot");
    if (step.slot > steps_.size()) refuse(info.name("slot") + " makes no sense");
    slots_ = std::max(slots_, step.slot + 1);
    step.kernel = kind.make(info, options);
    steps_.push_back(std::move(step));
  }

  std::vector<Step> steps_;
  size_t inputs_ = 0, slots_ = 0;
  static constexpr int64_t kMostInputs = 1 << 16;

  Memory memory_;
};

}  // namespace ops
