// Several ops as one, with their activations in memory of its own.
//
// ONNX Runtime takes some microseconds for a node whose kernel left its own code and data in no cache; docs/kernels.md
// has how much that is of a network.
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
    check_slots();
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
      within(s.name, *s.kind, [&] {
        const ort::Tensor *x = find(s.x), *z = s.has_z ? find(s.z) : nullptr;
        if (x->type != s.kind->inputs[0]) refuse("X is of another type");
        values.push_back({nullptr, s.kind->output, s.kernel->output(*x, z)});
        if (&s != &steps_.back()) slots[s.slot] = std::max(slots[s.slot], values.back().bytes());
      });
    }
    values.back().data = output_of(context, values.back().axes);
    const Block block(memory_.scratch(), slots);
    Kept kept(memory_.scratch());
    const Means means{parallel_of(context), kept.scratch()};
    for (size_t i = 0; i < steps_.size(); i++) {
      const Step& s = steps_[i];
      if (i + 1 < steps_.size()) values[i].data = block.begin[s.slot];
      within(s.name, *s.kind, [&] { s.kernel->run(*find(s.x), s.has_z ? find(s.z) : nullptr, values[i], means); });
    }
  }

 private:
  struct Step {
    std::string name;
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
      for (size_t size : sizes) {
        bytes += padded(size);
        if (bytes > ort::Tensor::kMostBytes) refuse("the activations are too large");
      }
      begin.reserve(sizes.size());
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
    struct Piece {  // what comes before its memory, and leaves it aligned as it was
      Piece* next;
      size_t bytes;
      char rest[64 - sizeof(Piece*) - sizeof(size_t)];
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
      return memory ? new (memory) Piece{nullptr, bytes, {}} + 1 : nullptr;
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
    Step step{read_text(info, "name"), &kind, nullptr, info.inputs[0], info.inputs[0], info.inputs.size() > least, 0};
    if (kind.residual && step.has_z) step.z = info.inputs.back();
    for (int64_t place : info.inputs) {
      if (place < -number || place >= kMostInputs) refuse(info.name("inputs") + " are not those of a node before");
    }
    for (int64_t place : {step.x, step.z})
      inputs_ = std::max(inputs_, static_cast<size_t>(std::max<int64_t>(place + 1, 0)));
    step.slot = narrow(read(info, "slot"), "slot");
    if (step.slot > steps_.size()) refuse(info.name("slot") + " makes no sense");
    slots_ = std::max(slots_, step.slot + 1);
    within(step.name, kind, [&] { step.kernel = kind.make(info, options); });
    steps_.push_back(std::move(step));
  }

  // Nothing is written where a value lies that is still read.
  void check_slots() const {
    const int64_t last = static_cast<int64_t>(steps_.size()) - 1;  // which writes Y
    std::vector<int64_t> read_until(steps_.size(), -1);
    for (int64_t i = 0; i <= last; i++) {
      for (int64_t place : {steps_[i].x, steps_[i].z}) {
        if (place < 0) read_until[-1 - place] = i;
      }
    }
    for (int64_t i = 0; i < last; i++) {
      for (int64_t j = 0; j < i; j++) {
        if (steps_[j].slot == steps_[i].slot && read_until[j] >= i) {
          refuse(std::to_string(i) + ".slot holds what is still read");
        }
      }
    }
  }

  // What a step refuses, with its name.
  template <class Body>
  static void within(const std::string& name, const Kind& kind, Body body) {
    try {
      body();
    } catch (const std::invalid_argument& error) {
      refuse(name + " (" + kind.name + "): " + error.what());
    }
  }

  static constexpr int64_t kMostInputs = 1 << 16;

  std::vector<Step> steps_;
  size_t inputs_ = 0, slots_ = 0;  // activations of the node, which come first, and parts of the memory
  Memory memory_;
};

}  // namespace ops
