// Which instruction sets are compiled in, and which this machine has.
#include <string>

#include "int8_layer.h"

namespace hetconv {

#if defined(__x86_64__)
extern const Isa isa_avx512, isa_avx2, isa_sse;
const std::vector<const Isa*>& all_isas() {
  static const std::vector<const Isa*> isas = {&isa_avx512, &isa_avx2, &isa_sse};
  return isas;
}
extern const Int8Isa isa_int8_avx512vnni, isa_int8_avx512, isa_int8_avx2, isa_int8_sse;
#if defined(HETCONV_AVXVNNI)  // the compiler knows it
extern const Int8Isa isa_int8_avxvnni;
#endif
const std::vector<const Int8Isa*>& all_int8_isas() {
  static const std::vector<const Int8Isa*> isas = {
      &isa_int8_avx512vnni,
#if defined(HETCONV_AVXVNNI)
      &isa_int8_avxvnni,
#endif
      &isa_int8_avx512,     &isa_int8_avx2, &isa_int8_sse,
  };
  return isas;
}
#elif defined(__aarch64__)
extern const Isa isa_neon;
const std::vector<const Isa*>& all_isas() {
  static const std::vector<const Isa*> isas = {&isa_neon};
  return isas;
}
extern const Int8Isa isa_int8_neondot, isa_int8_neon;
const std::vector<const Int8Isa*>& all_int8_isas() {
  static const std::vector<const Int8Isa*> isas = {&isa_int8_neondot, &isa_int8_neon};
  return isas;
}
#else
#error "no kernels for this architecture: leave the compiled part out, the portable lowering runs everywhere"
#endif

namespace {

bool available(const Isa& isa) { return isa.available(); }

bool available(const Int8Isa& isa) {
  for (const Isa* floats : all_isas()) {
    if (std::string(isa.floats) == floats->name) return floats->available() && isa.has_products();
  }
  return false;
}

template <class Any>
const Any& best(const std::vector<const Any*>& isas) {
  for (const Any* isa : isas) {
    if (available(*isa)) return *isa;
  }
  throw std::invalid_argument("this processor is older than the oldest that the kernels are compiled for");
}

template <class Any>
const Any& find(const std::vector<const Any*>& isas, const char* name) {
  std::string known;
  for (const Any* isa : isas) {
    if (std::string(name) == isa->name) {
      if (available(*isa)) return *isa;
      throw std::invalid_argument(std::string("this processor has no ") + name);
    }
    known += std::string(known.empty() ? "" : ", ") + isa->name;
  }
  throw std::invalid_argument(std::string("unknown instruction set ") + name + "; there are " + known);
}

template <class Any>
std::string names(const std::vector<const Any*>& isas) {
  std::string all;
  for (const Any* isa : isas) {
    if (available(*isa)) all += std::string(all.empty() ? "" : " ") + isa->name;
  }
  return all;
}

}  // namespace

const Isa& best_isa() { return best(all_isas()); }
const Int8Isa& best_int8_isa() { return best(all_int8_isas()); }
const Isa& find_isa(const char* name) { return find(all_isas(), name); }
const Int8Isa& find_int8_isa(const char* name) { return find(all_int8_isas(), name); }
std::string isa_names() { return names(all_isas()); }
std::string int8_isa_names() { return names(all_int8_isas()); }

}  // namespace hetconv
