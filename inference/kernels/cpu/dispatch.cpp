// Which instruction sets are compiled in, and which this machine has.
#include <string>

#include "layer.h"

namespace hetconv {

#if defined(__x86_64__)
extern const Isa isa_avx512, isa_avx2, isa_sse;
const std::vector<const Isa*>& all_isas() {
  static const std::vector<const Isa*> isas = {&isa_avx512, &isa_avx2, &isa_sse};
  return isas;
}
#elif defined(__aarch64__)
extern const Isa isa_neon;
const std::vector<const Isa*>& all_isas() {
  static const std::vector<const Isa*> isas = {&isa_neon};
  return isas;
}
#else
#error "no kernels for this architecture: leave the compiled part out, the portable lowering runs everywhere"
#endif

const Isa& best_isa() {
  for (const Isa* isa : all_isas()) {
    if (isa->available()) return *isa;
  }
  throw std::invalid_argument("this processor is older than the oldest that the kernels are compiled for");
}

const Isa& find_isa(const char* name) {
  std::string known;
  for (const Isa* isa : all_isas()) {
    if (std::string(name) == isa->name) {
      if (isa->available()) return *isa;
      throw std::invalid_argument(std::string("this processor has no ") + name);
    }
    known += std::string(known.empty() ? "" : ", ") + isa->name;
  }
  throw std::invalid_argument(std::string("unknown instruction set ") + name + "; there are " + known);
}

}  // namespace hetconv
