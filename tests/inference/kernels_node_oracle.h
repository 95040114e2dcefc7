// What a node of the custom ops must give for its attributes and inputs, in fp32 and in eight bits.
#pragma once

#include "fake_ort.h"
#include "kernels_int8_oracle.h"

namespace hetconv {

// Of a node that was made, so all that it needs is there.
class NodeOracle {
 public:
  NodeOracle(int op, const ort::KernelInfo& info, const ort::Value& x) : op_(op), info_(info), x_(x) {
    const std::vector<int64_t>& in = x.shape;
    c_.batch = in[0], c_.height = in[1], c_.width = in[2];
    shape_ = {in[0], 1, 1, in[3]};
    if (fake::is_conv(op)) {
      read_conv();
      const Sizes sizes = sizes_of(c_.s, c_.batch, c_.height, c_.width);
      shape_ = {in[0], sizes.out_height, sizes.out_width, c_.s.out_channels};
    } else if (op == fake::kQuantize) {
      shape_ = {in[0], in[2], in[3], in[1]};
    } else if (op != fake::kQMean) {
      pool_.average = op == fake::kAveragePool;
      pool_.include_pad = pool_.average && info.integers.at("count_include_pad");
      read("kernel_shape", pool_.kernel), read("strides", pool_.stride), read("pads", pool_.pads);
      pool_output_size(pool_, in[1], in[2], &shape_[1], &shape_[2]);
    }
  }

  // Of an output that was not refused; `z` is the residual, or null.
  bool agrees(const ort::Value& y, const ort::Value* z) const {
    const bool bytes = fake::is_int8_conv(op_) && !int8_.float_residual;
    if (y.shape != shape_ || (z && (z->shape != shape_ || z->type != (bytes ? ort::kUint8 : ort::kFloat))))
      return false;
    const Floats results = numbers(y);
    for (float value : results) {
      if (std::isnan(value)) return false;  // nobody wrote it
    }
    if (double(results.size()) * work() > 1e6) return true;  // would take too long
    const Floats residual = z ? numbers(*z) : Floats(fake::is_int8_conv(op_) ? 0 : results.size());
    std::vector<double> wanted(results.size());
    double largest = 1e-3;
    for (size_t i = 0; i < wanted.size(); i++) {
      const int64_t n = i % shape_[3], pixel = i / shape_[3], row = pixel / shape_[2];
      wanted[i] = output(row / shape_[1], row % shape_[1], pixel % shape_[2], n, i, residual);
      largest = std::max(largest, std::abs(wanted[i]));
    }
    for (size_t i = 0; i < wanted.size(); i++) {
      if (!(results[i] == wanted[i] || std::abs(results[i] - wanted[i]) <= tolerance() * largest)) return false;
    }
    return true;
  }

 private:
  static Floats numbers(const ort::Value& value) {
    return value.type == ort::kFloat ? value.data : Floats(value.bytes.begin(), value.bytes.end());
  }

  template <size_t kCount>
  void read(const char* name, int32_t (&out)[kCount]) {
    std::copy_n(info_.lists.at(name).begin(), kCount, out);
  }

  template <class T>
  static T read_or(const std::map<std::string, T>& attributes, const char* name, T otherwise) {
    const auto found = attributes.find(name);
    return found == attributes.end() ? otherwise : found->second;
  }
  int32_t zero_point(const char* name) const { return static_cast<int32_t>(read_or(info_.integers, name, int64_t{0})); }

  void read_conv() {
    LayerShape& s = c_.s;
    c_.hetconv = fake::is_hetconv(op_);
    size_t next = 1;
    if (c_.hetconv) w_ = info_.constants[next++];
    w_kxk_ = info_.constants[next++];
    const ort::Value* scale = fake::is_int8_conv(op_) ? info_.constants[next++] : nullptr;
    bias_ = info_.constants[next];
    s.part = static_cast<int32_t>(info_.integers.at(c_.hetconv ? "part" : "group"));
    s.in_channels = static_cast<int32_t>(w_kxk_->shape[1]) * s.part;
    s.out_channels = static_cast<int32_t>(w_kxk_->shape[0]);
    read("kernel_shape", s.kernel), read("strides", s.stride), read("dilations", s.dilation), read("pads", s.pads);
    c_.low = read_or(info_.floats, "min", -INFINITY), c_.high = read_or(info_.floats, "max", INFINITY);
    if (!scale) return;
    const auto bytes = [](const ort::Value* w) { return reinterpret_cast<const int8_t*>(w->bytes.data()); };
    const float z_scale = read_or(info_.floats, "z_scale", 0.0f);
    int8_ = {w_ ? bytes(w_) : nullptr,
             bytes(w_kxk_),
             scale->data.data(),
             bias_->data.data(),
             c_.low,
             c_.high,
             zero_point("x_zero_point"),
             op_ == fake::kQHetConv2dFloat || op_ == fake::kQConvFloat,
             read_or(info_.floats, "y_scale", 0.0f),
             zero_point("y_zero_point"),
             z_scale == 0,
             z_scale,
             zero_point("z_zero_point")};
  }

  // Operations of one output.
  double work() const {
    const LayerShape& s = c_.s;
    if (fake::is_conv(op_)) return double(s.in_channels / s.part) * s.kernel[0] * s.kernel[1] + s.in_channels;
    return op_ == fake::kQMean ? double(c_.height) * c_.width : double(pool_.kernel[0]) * pool_.kernel[1];
  }

  // Of the largest output: where kernels may round otherwise.
  double tolerance() const {
    if (fake::is_int8_conv(op_)) return 0;
    return fake::is_conv(op_) ? 1e-4 : op_ == fake::kAveragePool || op_ == fake::kQMean ? 1e-5 : 0;
  }

  // The output at (b, y, x, n), its `index`-th number.
  double output(int64_t b, int64_t y, int64_t x, int64_t n, size_t index, const Floats& residual) const {
    static const Floats kNone;
    const int64_t channels = x_.shape[3], size = c_.height * c_.width * channels;
    const uint8_t* bytes = x_.bytes.data() + (x_.bytes.empty() ? 0 : b * size);
    const int out = static_cast<int>(n);
    if (fake::is_int8_conv(op_)) {
      return int8_output(int8_, int8_sum(c_, int8_, bytes, y, x, out), out,
                         residual.empty() ? nullptr : &residual[index]);
    }
    if (fake::is_conv(op_)) {
      return expected(c_, x_.data, w_ ? w_->data : kNone, w_kxk_->data, bias_->data, residual, b, y, x, out, index);
    }
    if (op_ == fake::kQMean) {
      int64_t sum = 0;
      for (int64_t i = n; i < size; i += channels) sum += bytes[i] - zero_point("x_zero_point");
      return double(sum) * info_.floats.at("x_scale") / double(c_.height * c_.width);
    }
    if (op_ == fake::kQuantize) {
      const float value = x_.data[((b * shape_[3] + n) * shape_[1] + y) * shape_[2] + x];
      const float steps = rounded(double(value) / info_.floats.at("y_scale"));
      return int8_byte(steps, -INFINITY, INFINITY, zero_point("y_zero_point"));
    }
    if (op_ == fake::kQMaxPool) return pooled(pool_, bytes, c_.height, c_.width, channels, y, x, n);
    return pooled(pool_, x_.data.data() + b * size, c_.height, c_.width, channels, y, x, n);
  }

  int op_;
  const ort::KernelInfo& info_;
  const ort::Value& x_;
  Case c_{};
  PoolShape pool_{};
  Int8Weights int8_{};
  const ort::Value *w_ = nullptr, *w_kxk_ = nullptr, *bias_ = nullptr;
  std::vector<int64_t> shape_;  // of the output
};

}  // namespace hetconv
