// Layers, pools and nodes of a file, made from bytes: what is refused is refused in words, what is taken computes what
// the oracle says. Most bytes make small sizes that fit together, some make absurd ones.
//
// With libFuzzer the bytes come from there (HETCONV_LIBFUZZER); else
//
//   hetconv_fuzz COUNT SEED   random bytes
//   hetconv_fuzz FILE...      those of a finding
#include <climits>
#include <cstdint>
#include <cstring>
#include <fstream>
#include <iterator>
#include <sstream>
#include <string>

#include "kernels_gradient_oracle.h"
#include "kernels_node_oracle.h"

using namespace hetconv;

namespace {

class Bytes {
 public:
  Bytes(const uint8_t* data, size_t size) : data_(data), end_(data + size) {}

  uint8_t byte() { return data_ < end_ ? *data_++ : 0; }
  bool one_in(int n) { return byte() % n == n - 1; }
  // The same for what hardly ever makes sense.
  bool odd(int n) { return one_in(n) && !sane; }
  // One of [low, high], or now and then any number at all.
  int64_t number(int low, int high) {
    const uint8_t b = byte();
    return b < 252 || sane ? low + b % (high - low + 1) : absurd();
  }
  int64_t absurd() {
    static constexpr int64_t kEdges[] = {
        0,       -1,      1 << 10,   (1 << 15) + 1, 1 << 16,   1 << 22,   1 << 24,   1 << 30,
        INT_MAX, INT_MIN, 1ll << 32, 1ll << 40,     1ll << 62, INT64_MAX, INT64_MIN,
    };
    const uint8_t b = byte();
    if (b < 192) return kEdges[b % std::size(kEdges)];
    uint64_t value = 0;
    for (int i = 0; i < 8; i++) value = value << 8 | byte();
    return static_cast<int64_t>(value >> (b % 64));
  }

  bool sane = false;  // leaves out what is odd, most of which is refused before anything else is reached

 private:
  const uint8_t *data_, *end_;
};

uint64_t seed;  // of the bytes, where they are random

void print_seed() { std::fprintf(stderr, "hetconv_fuzz 1 %llu\n", static_cast<unsigned long long>(seed)); }

[[noreturn]] void wrong(const char* what) {
  std::fprintf(stderr, "%s\n", what);
  print_seed();
  std::abort();
}

int32_t narrow(int64_t value) {
  return static_cast<int32_t>(std::max<int64_t>(INT_MIN, std::min<int64_t>(INT_MAX, value)));
}

// What fits together unless a number is absurd.
Case make_case(Bytes& bytes, bool hetconv) {
  Case c{};
  const int64_t part = bytes.number(1, 8);
  c.s.part = narrow(part);
  c.s.in_channels = narrow(int64_t{narrow(bytes.number(1, 12))} * c.s.part);
  c.s.out_channels = narrow(int64_t{narrow(bytes.number(1, 20))} * c.s.part);
  c.hetconv = hetconv;
  const bool winograd = bytes.one_in(2);
  for (int i = 0; i < 2; i++) {
    c.s.kernel[i] = winograd ? 3 : narrow(c.hetconv ? narrow(bytes.number(0, 2)) * int64_t{2} + 1 : bytes.number(1, 5));
    c.s.stride[i] = winograd ? 1 : narrow(bytes.number(1, 3));
    c.s.dilation[i] = winograd ? 1 : narrow(bytes.number(1, 3));
  }
  for (int i = 0; i < 4; i++) {
    const int64_t same = int64_t{c.s.dilation[i % 2]} * (c.s.kernel[i % 2] / 2);
    c.s.pads[i] = narrow(c.hetconv && !bytes.odd(16) ? same : bytes.number(0, 4));
  }
  c.low = bytes.one_in(2) ? 0.0f : -INFINITY, c.high = bytes.one_in(2) ? 6.0f : INFINITY;
  if (bytes.odd(32)) c.high = bytes.one_in(2) ? -1.0f : NAN;
  c.batch = bytes.number(0, 3), c.height = bytes.number(1, 14), c.width = bytes.number(1, 14);
  return c;
}

bool small(std::initializer_list<int64_t> sizes, double most) {
  double product = 1;
  for (int64_t size : sizes) product *= double(size);
  return product <= most;
}

void fuzz_layer(Bytes& bytes) {
  const Case c = make_case(bytes, bytes.one_in(2));
  const LayerShape& s = c.s;
  static const float kSomewhere = 0;  // weights are read when a layer first runs
  const Weights weights{c.hetconv ? &kSomewhere : nullptr, &kSomewhere, nullptr, c.low, c.high};
  int64_t out_height = 0, out_width = 0;
  try {
    for (Algorithm algorithm : {Algorithm::kAuto, Algorithm::kDirect, Algorithm::kWinograd4, Algorithm::kPatches}) {
      if (!can_take(algorithm, s, weights.w)) continue;
      const Layer layer(s, weights, algorithm, best_isa());
      layer.output_size(c.height, c.width, &out_height, &out_width);
      if (out_height < 1 || out_width < 1) wrong("an output without pixels");
      layer.algorithm_for(c.batch, c.height, c.width);
      const bool fits = c.batch >= 0 && small({c.batch, c.height, c.width, s.in_channels}, 0x1p60) &&
                        small({c.batch, out_height, out_width, s.out_channels}, 0x1p60);
      if (c.batch > 0 && fits) continue;
      // Must neither read nor write anything.
      layer.run(nullptr, nullptr, nullptr, c.batch, c.height, c.width, {}, {});
      if (c.batch) wrong("sizes that overflow were taken");
    }
  } catch (const std::invalid_argument& error) {
    if (!*error.what()) wrong("a refusal without words");
    return;
  }
  const int64_t taps = int64_t{s.kernel[0]} * s.kernel[1];
  if (!c.batch || !small({c.batch, c.height, c.width, s.in_channels}, 1e5) ||
      !small({s.out_channels, s.in_channels, taps}, 1e5) ||
      !small({c.batch, out_height, out_width, s.out_channels, s.in_channels / s.part * taps + s.in_channels}, 1e6)) {
    return;
  }
  if (!check_case(c) || !check_int8_case(c) || (c.hetconv && !check_gradient_case(c)))
    wrong("not what the oracle says");
}

void fuzz_pool(Bytes& bytes) {
  PoolShape s{};
  s.average = bytes.one_in(2), s.include_pad = bytes.one_in(2);
  for (int i = 0; i < 2; i++) s.kernel[i] = narrow(bytes.number(1, 4)), s.stride[i] = narrow(bytes.number(1, 4));
  for (int32_t& pad : s.pads) pad = narrow(bytes.number(0, 3));
  const int64_t batch = 1 + bytes.byte() % 2, height = bytes.number(1, 12), width = bytes.number(1, 12);
  const int64_t channels = 1 + bytes.byte() % 40;
  int64_t out_height = 0, out_width = 0;
  try {
    check_pool(s);
    pool_output_size(s, height, width, &out_height, &out_width);
  } catch (const std::invalid_argument& error) {
    if (!*error.what()) wrong("a refusal without words");
    return;
  }
  if (out_height < 1 || out_width < 1) wrong("an output without pixels");
  if (!small({batch, height, width, channels}, 1e5) ||
      !small({batch, out_height, out_width, channels, s.kernel[0], s.kernel[1]}, 1e6)) {
    return;
  }
  const Floats x = normal(batch * height * width * channels);
  for (const Isa* isa : all_isas()) {
    if (!isa->available()) continue;
    Floats y(batch * out_height * out_width * channels, NAN);
    PoolRun run{x.data(), y.data(), height, width, channels, out_height, out_width, &s, isa};
    for (int64_t i = 0; i < batch * out_height; i++) PoolRun::row(&run, i);
    for (size_t i = 0; i < y.size(); i++) {
      const int64_t c = i % channels, ox = i / channels % out_width, oy = i / channels / out_width % out_height;
      const float* image = &x[i / (channels * out_width * out_height) * height * width * channels];
      const double wanted = pooled(s, image, height, width, channels, oy, ox, c);
      if (!(std::abs(y[i] - wanted) <= 1e-5)) wrong("not what the oracle of the pool says");
    }
  }
}

// A tensor has its elements: of a shape that asks for more than a few, one without any.
ort::Value tensor(Bytes& bytes, std::vector<int64_t> shape, ort::Type type = ort::kFloat) {
  if (bytes.odd(24)) shape.resize(bytes.byte() % 7, 1);
  for (int64_t& size : shape) {
    if (bytes.odd(24)) size = std::max<int64_t>(0, bytes.number(0, 9));
  }
  double elements = 1;
  for (int64_t size : shape) elements *= double(std::max<int64_t>(0, size));
  if (elements > 1e5) {
    shape[bytes.byte() % shape.size()] = 0;
    elements = 0;
  }
  for (int64_t& size : shape) size = std::max<int64_t>(0, size);
  const size_t count = static_cast<size_t>(elements);
  if (type == ort::kFloat) return {shape, normal(count)};
  return {shape, {}, random_bytes<uint8_t>(count), type};
}

// Of every instruction set.
const std::vector<std::vector<const ort::CustomOp*>>& all_ops() {
  static const auto all = [] {
    std::vector<std::vector<const ort::CustomOp*>> sets;
    std::istringstream names(int8_isa_names());
    for (std::string name; names >> name;) {
      if (!fake::ops({{"hetconv.isa", name}}, &sets.emplace_back()).empty()) wrong("the ops were not registered");
    }
    return sets;
  }();
  return all;
}

// Attributes as they may stand in a tampered file.
ort::KernelInfo attributes(Bytes& bytes, const Case& c) {
  const LayerShape& s = c.s;
  ort::KernelInfo info;
  info.lists = {{"kernel_shape", {s.kernel[0], s.kernel[1]}},
                {"strides", {s.stride[0], s.stride[1]}},
                {"dilations", {s.dilation[0], s.dilation[1]}},
                {"pads", {s.pads[0], s.pads[1], s.pads[2], s.pads[3]}}};
  info.integers = {{"part", s.part}, {"group", s.part}, {"count_include_pad", bytes.byte() % 3}};
  for (const char* name : {"x_zero_point", "y_zero_point", "z_zero_point"}) info.integers[name] = bytes.byte();
  info.floats = {{"min", c.low}, {"max", c.high}, {"x_scale", 0.02f}, {"y_scale", 0.05f}, {"z_scale", 0.03f}};
  for (auto& [name, list] : info.lists) {
    if (bytes.odd(24)) list.resize(bytes.byte() % 7, 1);
    for (int64_t& value : list) {
      if (bytes.odd(48)) value = bytes.absurd();
    }
  }
  for (auto& [name, value] : info.integers) {
    if (bytes.odd(32)) value = bytes.absurd();
  }
  for (auto& [name, value] : info.floats) {
    static constexpr float kOdd[] = {0, -1, INFINITY, -INFINITY, NAN, 1e-9f, 1e9f};
    if (bytes.odd(32)) value = kOdd[bytes.byte() % std::size(kOdd)];
  }
  for (const char* name : {"kernel_shape", "strides", "dilations", "pads"}) {
    if (bytes.odd(32)) info.lists.erase(name);
  }
  for (const char* name : {"part", "group", "count_include_pad", "x_zero_point", "y_zero_point", "z_zero_point"}) {
    if (bytes.odd(32)) info.integers.erase(name);
  }
  for (const char* name : {"min", "max", "z_scale", "x_scale", "y_scale"}) {
    if (bytes.odd(32)) info.floats.erase(name);
    if (bytes.odd(32)) info.integers[name] = 0;
  }
  for (const char* name : {"min", "max", "z_scale"}) {  // which may be missing
    if (bytes.one_in(3)) info.floats.erase(name);
  }
  return info;
}

// Whether it was refused; in words.
bool refused(const std::string& text) {
  if (text == fake::kNoWords) wrong("a refusal without words");
  return !text.empty();
}

// The same node in a sequence, where `info` has made one and `y` is what it gave, or empty; and twice, or a pool behind
// it, where that fits.
void check_sequence(Bytes& bytes, const std::vector<const ort::CustomOp*>& ops, int op, const ort::KernelInfo& info,
                    const std::vector<const ort::Value*>& inputs, const ort::Value& y, bool is_made) {
  const ort::CustomOp& node = *ops[op];
  ort::KernelInfo sequence;
  sequence.constants = info.constants;
  std::vector<int64_t> places;
  for (size_t i = 0; i < inputs.size(); i++) places.push_back(static_cast<int64_t>(i));
  fake::add_step(&sequence, node.name(&node), info, places);
  const ort::Type type = static_cast<ort::Type>(node.output_type(&node, 0));
  const auto runs = [](const ort::CustomOp& of, const ort::KernelInfo& with, const std::vector<const ort::Value*>& in,
                       ort::Value* out) {
    const fake::Kernel kernel(&of, with);
    if (refused(kernel.error)) return false;
    std::string why;
    *out = kernel.run(in, 2, &why);
    return !refused(why);
  };
  // What is expected of it.
  ort::Value wanted = y;
  bool is_right = is_made;
  if (is_made && fake::is_conv(op) && bytes.one_in(2) && node.input_type(&node, 0) == type) {
    // Itself again, on what it gave and with that added.
    places[0] = -1, places.push_back(-1);
    fake::add_step(&sequence, node.name(&node), info, places);
    std::vector<const ort::Value*> again = inputs;
    again[0] = &y, again.push_back(&y);
    is_right = runs(node, info, again, &wanted);
  } else if (is_made && bytes.one_in(2)) {
    ort::KernelInfo pool;
    pool.lists = {{"kernel_shape", {2, 2}}, {"strides", {1, 1}}, {"pads", {1, 1, 1, 1}}};
    const ort::CustomOp& pooling = *ops[type == ort::kFloat ? fake::kMaxPool : fake::kQMaxPool];
    fake::add_step(&sequence, pooling.name(&pooling), pool, {-1});
    is_right = runs(pooling, pool, {&y}, &wanted);
  }
  bool is_odd = false;
  for (auto& [key, list] : sequence.lists) {
    if (key.find("inputs") == std::string::npos || !bytes.odd(16)) continue;
    is_odd = true;
    if (bytes.one_in(2)) list.resize(bytes.byte() % 9, bytes.number(-3, 6));
    for (int64_t& place : list) {
      if (bytes.one_in(4)) place = bytes.one_in(2) ? bytes.number(-3, 6) : bytes.absurd();
    }
  }
  for (auto& [key, value] : sequence.integers) {
    if (key.find("slot") == std::string::npos || !bytes.odd(16)) continue;
    value = bytes.one_in(2) ? bytes.number(0, 2) : bytes.absurd();
    is_odd = true;
  }
  if (bytes.odd(24)) {
    is_odd = true;
    bytes.one_in(2) ? void(sequence.texts.erase(bytes.one_in(2) ? "ops" : "0.name"))
                    : void(sequence.texts["ops"] += "Nothing");
  }
  const bool other = bytes.odd(24);
  ort::Value got;
  const bool ran =
      runs(*ops[(type == ort::kFloat) != other ? fake::kSequence : fake::kQSequence], sequence, inputs, &got);
  if (other && ran) wrong("a sequence of another type was taken");
  if (!is_odd && !other && (ran != is_right || (ran && !(got == wanted)))) {
    wrong("a sequence is not what its nodes are");
  }
}

// A node, and inputs as a caller may give them.
void fuzz_node(Bytes& bytes) {
  const int op = bytes.byte() % fake::kNodes;
  const size_t set = bytes.byte() % all_ops().size();
  const ort::CustomOp& made_of = *all_ops()[set][op];
  bytes.sane = bytes.one_in(2);
  Case c = make_case(bytes, fake::is_hetconv(op));
  LayerShape& s = c.s;
  for (int i = 0; i < 4 && bytes.sane && !fake::is_conv(op); i++) s.pads[i] %= s.kernel[i % 2];
  const int64_t m = s.in_channels, n = s.out_channels, group = s.part ? m / s.part : 0;
  std::vector<std::vector<int64_t>> shapes = {{c.batch, c.height, c.width, m}};
  if (c.hetconv) shapes.push_back({n, m, 1, 1});
  if (fake::is_conv(op)) shapes.push_back({n, group, s.kernel[0], s.kernel[1]});
  if (fake::is_int8_conv(op)) shapes.push_back({n});  // scale
  if (fake::is_conv(op)) shapes.push_back({n});       // bias
  std::vector<ort::Value> values;
  for (size_t i = 0; i < shapes.size(); i++) {
    values.push_back(tensor(bytes, shapes[i], static_cast<ort::Type>(made_of.input_type(&made_of, i))));
  }
  if (fake::is_int8_conv(op)) {
    for (float& scale : values[values.size() - 2].data) scale /= 2048;
  }
  ort::KernelInfo info = attributes(bytes, c);
  std::vector<const ort::Value*> inputs;
  for (const ort::Value& value : values) inputs.push_back(&value);
  info.constants = inputs;
  info.constants[0] = nullptr;
  if (bytes.odd(24)) info.constants[bytes.byte() % info.constants.size()] = nullptr;
  {
    const fake::Kernel kernel(&made_of, info);
    const std::vector<const ort::CustomOp*>& ops = all_ops()[set];
    if (refused(kernel.error)) return check_sequence(bytes, ops, op, info, inputs, {}, false);
    std::string why;
    const ort::Value y = kernel.run(inputs, 1 + bytes.byte() % 3, &why);
    check_sequence(bytes, ops, op, info, inputs, y, why.empty());
    if (!refused(why)) {
      const NodeOracle oracle(op, info, values[0]);
      if (!oracle.agrees(y, nullptr)) wrong("not what the oracle of the node says");
      if (fake::is_conv(op)) {  // with a sum to add, or something else
        ort::Type type = fake::is_int8_conv(op) && info.floats.count("z_scale") ? ort::kUint8 : ort::kFloat;
        if (fake::is_int8_conv(op) && bytes.one_in(8)) type = static_cast<ort::Type>(1 + bytes.byte() % 3);
        const ort::Value z = tensor(bytes, y.shape, type);
        inputs.push_back(bytes.one_in(8) ? nullptr : &z);
        const ort::Value sum = kernel.run(inputs, 1, &why);
        if (!refused(why) && !oracle.agrees(sum, inputs.back())) wrong("not what the oracle says of a node with a sum");
      }
    }
  }
  if (fake::live) wrong("memory was not given back");
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  Bytes bytes(data, size);
  generator.seed(1);
  switch (bytes.byte() % 4) {
    case 0:
      fuzz_pool(bytes);
      break;
    case 1:
      fuzz_layer(bytes);
      break;
    default:
      fuzz_node(bytes);
  }
  return 0;
}

#ifndef HETCONV_LIBFUZZER
extern "C" __attribute__((weak)) void __sanitizer_set_death_callback(void (*callback)());

int main(int argc, char** argv) {
  if (argc == 3 && std::strspn(argv[1], "0123456789") == std::strlen(argv[1])) {
    if (__sanitizer_set_death_callback) __sanitizer_set_death_callback(print_seed);
    const int count = std::atoi(argv[1]);
    for (int i = 0; i < count; i++) {
      seed = std::strtoull(argv[2], nullptr, 10) + i;  // one for each, so that a finding is made again by itself
      std::mt19937_64 random(seed);
      uint8_t bytes[256];
      for (uint8_t& byte : bytes) byte = static_cast<uint8_t>(random() >> 32);
      LLVMFuzzerTestOneInput(bytes, sizeof(bytes));
    }
    std::printf("%d inputs right\n", count);
    return 0;
  }
  for (int i = 1; i < argc; i++) {
    std::ifstream file(argv[i], std::ios::binary);
    const std::vector<char> bytes((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
    LLVMFuzzerTestOneInput(reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size());
  }
  return 0;
}
#endif
