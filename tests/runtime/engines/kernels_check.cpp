// Compares the kernels of every instruction set that this build and CPU support with the portable kernels, bit by bit,
// on random data of awkward sizes. It needs no Python, so that it also runs under an emulator: `make cross`.
#include <cstdio>
#include <cstring>
#include <random>
#include <vector>

#include "kernels/kernels.h"

using namespace spiketicket;

namespace {

std::mt19937 generator(1);
int failures = 0;

float real() { return std::normal_distribution<float>()(generator); }
int below(int n) { return int(generator() % unsigned(n)); }
uint64_t bits(double rate) {
  uint64_t word = 0;
  for (int i = 0; i < 64; ++i) word |= uint64_t(generator() < rate * 4294967295.0) << i;
  return word;
}

template <class Element, class Make>
std::vector<Element> filled(size_t count, const Make& make) {
  std::vector<Element> all(count + 2 * kSlack);
  for (Element& one : all) one = Element(make());
  return all;
}

template <class Element>
void same(const char* isa, const char* kernel, const std::vector<Element>& got, const std::vector<Element>& wanted,
          size_t count) {
  for (size_t i = 0; i < count; ++i)
    if (!(got[i] == wanted[i])) {
      std::printf("%s: %s differs from portable at %zu\n", isa, kernel, i);
      ++failures;
      return;
    }
}

void check(const Kernels& k, const Kernels& portable) {
  constexpr int kRows = 50, kLists = 7;
  const auto dense = filled<float>(kRows * 64, real);
  const auto whole = filled<int16_t>(kRows * 64, [] { return below(2 * kLargest + 1) - kLargest; });
  const auto bias = filled<float>(64, real), scale = filled<float>(64, real);
  const auto rows = filled<uint32_t>(400, [] { return below(kRows); });
  const std::vector<uint32_t> ends = {0, 3, 40, 41, 200, 200, 333};
  std::vector<uint32_t> starts = {0};
  for (int row = 0; row < kRows; ++row) starts.push_back(starts.back() + below(6));
  const LifParameters hard{0.25f, 0.75f, 1.0f, 0.0f, false}, soft{0.5f, 1.0f, 0.7f, 0.6f, true},
      whole_sum{1.0f, 1.0f, 0.9f, 1.1f, true};
  for (int vectors = 1; vectors <= 4; ++vectors) {
    const size_t width = vectors * kLanes, all = kLists * width;
    const auto columns = filled<uint16_t>(starts.back(), [&] { return below(int(width)); });
    std::vector<float> a(all + 64), b(all + 64);
    k.gather(rows.data(), ends.data(), kLists, dense.data(), vectors, bias.data(), a.data());
    portable.gather(rows.data(), ends.data(), kLists, dense.data(), vectors, bias.data(), b.data());
    same(k.isa, "gather", a, b, all);
    k.gather_int16(rows.data(), ends.data(), kLists, whole.data(), vectors, scale.data(), bias.data(), a.data());
    portable.gather_int16(rows.data(), ends.data(), kLists, whole.data(), vectors, scale.data(), bias.data(), b.data());
    same(k.isa, "gather_int16", a, b, all);
    k.gather_sparse(rows.data(), ends.data(), kLists, starts.data(), columns.data(), dense.data(), vectors, bias.data(),
                    a.data());
    portable.gather_sparse(rows.data(), ends.data(), kLists, starts.data(), columns.data(), dense.data(), vectors,
                           bias.data(), b.data());
    same(k.isa, "gather_sparse", a, b, all);
    const std::vector<Tap> taps = {{0, 0}, {3, 10}, {5, 40}};
    const auto x = filled<float>(6 * 16, real);
    k.gather_real(taps.data(), taps.size(), x.data(), 16, 10, dense.data(), vectors, bias.data(), a.data());
    portable.gather_real(taps.data(), taps.size(), x.data(), 16, 10, dense.data(), vectors, bias.data(), b.data());
    same(k.isa, "gather_real", a, b, width);
    for (const LifParameters& lif : {hard, soft, whole_sum}) {
      const auto current = filled<float>(6 * width, [] { return 2 * real(); });
      auto u = filled<float>(width, real), v = u;
      std::vector<uint64_t> fired(6), expected(6);
      k.lif(lif, current.data(), width, 6, vectors, u.data(), fired.data(), 1);
      portable.lif(lif, current.data(), width, 6, vectors, v.data(), expected.data(), 1);
      same(k.isa, "lif", fired, expected, 6);
      same(k.isa, "lif's potentials", u, v, width);
    }
    const uint64_t word = bits(0.5);
    k.add_spikes(word, vectors, a.data());
    portable.add_spikes(word, vectors, b.data());
    same(k.isa, "add_spikes", a, b, width);
  }
  for (const double rate : {0.0, 0.05, 0.5, 1.0}) {
    std::vector<uint64_t> words = {bits(rate), bits(rate), 0, bits(rate)};
    std::vector<uint16_t> a(256 + kSlack), b(256 + kSlack);
    const uint32_t count = k.expand(words.data(), 4, 100, a.data());
    if (count != portable.expand(words.data(), 4, 100, b.data())) ++failures, std::printf("%s: expand counts\n", k.isa);
    same(k.isa, "expand", a, b, count);
    const std::vector<EventSpan> spans = {{0, 2}, {2, 0}, {2, 30}, {32, 5}};
    const std::vector<Run> runs = {{0, 2, 7}, {1, 1, 9}, {2, 3, 0xFFFFFFF0u}};
    std::vector<uint32_t> c(200), d(200);
    const size_t length = k.list_rows(runs.data(), runs.size(), spans.data(), a.data(), c.data()) - c.data();
    portable.list_rows(runs.data(), runs.size(), spans.data(), a.data(), d.data());
    same(k.isa, "list_rows", c, d, length);
  }
  for (const int timesteps : {1, 2, 3, 4, 5, 7})
    for (const int vectors : {1, 2, 3, 5, 9}) {
      const size_t step = vectors, row_step = timesteps * step, room = vectors * kLanes + kSlack;
      const auto masks = filled<uint16_t>(kRows * row_step, [] { return generator(); });
      std::vector<MaskTap> taps;
      for (int i = 0; i < 60; ++i) taps.push_back({uint32_t(below(kRows)), real()});
      std::vector<float> a(timesteps * room), b(timesteps * room);
      k.accumulate_masked(taps.data(), taps.size(), 0.5f, masks.data(), row_step, step, timesteps, vectors, a.data(),
                          room);
      portable.accumulate_masked(taps.data(), taps.size(), 0.5f, masks.data(), row_step, step, timesteps, vectors,
                                 b.data(), room);
      const auto planes = filled<uint8_t>(timesteps * 512, [] { return below(16); });
      std::vector<TableTap> tables;
      for (int i = 0; i < 30; ++i) tables.push_back({below(200), {real(), real(), real(), real()}});
      for (int t = 0; t < timesteps; ++t) {
        const std::vector<float> c(a.begin() + t * room, a.begin() + (t + 1) * room);
        const std::vector<float> d(b.begin() + t * room, b.begin() + (t + 1) * room);
        same(k.isa, "accumulate_masked", c, d, vectors * kLanes);
      }
      const int positions = vectors * kLanes - 3;
      k.accumulate_tables(tables.data(), tables.size(), 0.5f, planes.data(), 512, timesteps, positions, a.data(), room);
      portable.accumulate_tables(tables.data(), tables.size(), 0.5f, planes.data(), 512, timesteps, positions, b.data(),
                                 room);
      for (int t = 0; t < timesteps; ++t) {
        const std::vector<float> c(a.begin() + t * room, a.begin() + (t + 1) * room);
        const std::vector<float> d(b.begin() + t * room, b.begin() + (t + 1) * room);
        same(k.isa, "accumulate_tables", c, d, positions);
      }
    }
}

}  // namespace

int main() {
  int checked = 0;
  for (const Kernels* kernels : present_kernels())
    if (kernels != &portable_kernels()) {
      check(*kernels, portable_kernels());
      std::printf("%s: checked against portable\n", kernels->isa);
      ++checked;
    }
  return failures > 0 || checked == 0;
}
