// The ops by name: what they take and give, and how they are made.
#pragma once

#include "ort_float.h"
#include "ort_int8.h"

namespace ops {

using ort::kAnyType, ort::kFloat, ort::kInt8, ort::kUint8;

struct Kind {
  const char* name;
  size_t count;   // of inputs; of convolutions the last is optional
  bool residual;  // that one
  ort::Type output, inputs[6];
  std::unique_ptr<Kernel> (*make)(const Info& info, const Options& options);
};

template <class T, bool... kFlags>
std::unique_ptr<Kernel> make(const Info& info, const Options& options) {
  return std::make_unique<T>(info, kFlags..., options);
}

inline constexpr Kind kKinds[] = {
    {"HetConv2d", 5, true, kFloat, {kFloat, kFloat, kFloat, kFloat, kFloat}, make<ConvKernel, true>},
    {"Conv", 4, true, kFloat, {kFloat, kFloat, kFloat, kFloat}, make<ConvKernel, false>},
    {"MaxPool", 1, false, kFloat, {kFloat}, make<PoolKernel, false>},
    {"AveragePool", 1, false, kFloat, {kFloat}, make<PoolKernel, true>},
    {"QHetConv2d",
     6,
     true,
     kUint8,
     {kUint8, kInt8, kInt8, kFloat, kFloat, kAnyType},
     make<Int8ConvKernel, true, false>},
    {"QConv", 5, true, kUint8, {kUint8, kInt8, kFloat, kFloat, kAnyType}, make<Int8ConvKernel, false, false>},
    {"QHetConv2dFloat",
     6,
     true,
     kFloat,
     {kUint8, kInt8, kInt8, kFloat, kFloat, kAnyType},
     make<Int8ConvKernel, true, true>},
    {"QConvFloat", 5, true, kFloat, {kUint8, kInt8, kFloat, kFloat, kAnyType}, make<Int8ConvKernel, false, true>},
    {"QMaxPool", 1, false, kUint8, {kUint8}, make<Int8PoolKernel>},
    {"QMean", 1, false, kFloat, {kUint8}, make<Int8MeanKernel>},
    {"Quantize", 1, false, kUint8, {kFloat}, make<QuantizeKernel>},
    {"FloatConv", 4, true, kFloat, {kFloat, kFloat, kFloat, kFloat}, make<ConvKernel, false>},
};

inline const Kind& find_kind(const std::string& name) {
  for (const Kind& kind : kKinds) {
    if (name == kind.name) return kind;
  }
  refuse("no operator is called " + name);
}

}  // namespace ops
