#include "layouts/convolution.h"

#include <algorithm>
#include <cmath>
#include <stdexcept>

namespace spiketicket {

std::string name_of(const Choice& choice) {
  switch (choice.method) {
    case Method::events: return "events/" + std::to_string(choice.tile);
    case Method::events_int16: return "events-int16/" + std::to_string(choice.tile);
    case Method::sparse_events: return "sparse-events";
    case Method::masks: return "masks";
    default: return "tables";
  }
}

Choice choice_named(const std::string& name) {
  for (const Method method :
       {Method::events, Method::events_int16, Method::sparse_events, Method::masks, Method::tables})
    for (const int tile : {16, 64})
      if (name_of({method, tile}) == name) return {method, tile};
  throw std::invalid_argument("unknown kernel '" + name + "'");
}

Convolution::Convolution(Layer layer) : layer_(std::move(layer)) {
  layer_.bias.resize(size_t(words_of(layer_.outputs)) * kWord, 0.0f);
  for (size_t s = 0; s < layer_.sources.size(); ++s) {
    const Source& source = layer_.sources[s];
    nonzeros_ += double(source.weight.values.size());
    dense_ += double(layer_.outputs) * layer_.in(s).channels * source.geometry.kernel_y * source.geometry.kernel_x;
  }
}

std::vector<Choice> Convolution::choices() const {
  const double density = nonzeros_ / dense_;
  const bool small = dense_ * sizeof(float) < 1e6;  // quick to try, whatever it is
  bool listed = true;  // events are numbered in 16 bits
  for (size_t s = 0; s < layer_.sources.size(); ++s) listed &= layer_.real() || layer_.in(s).channels <= 1 << 16;
  std::vector<Choice> all;
  if (listed && (small || density > 1.0 / 128)) {  // or dense rows would waste memory and time
    all.push_back({Method::events, 16});
    if (!layer_.real()) all.push_back({Method::events, 64});
    if (!layer_.real() && layer_.int16 && dense_ / layer_.outputs * kLargest <= INT32_MAX) {
      all.push_back({Method::events_int16, 16});
      all.push_back({Method::events_int16, 64});
    }
  }
  if (listed && (small || density < 1.0 / 8)) all.push_back({Method::sparse_events, 16});
  if (layer_.real()) return all;
  if (small || !listed || density < 1.0 / 2) all.push_back({Method::masks, 16});
  if (small || density > 1.0 / 16) all.push_back({Method::tables, 16});
  std::stable_sort(all.begin(), all.end(), [&](const Choice& a, const Choice& b) { return estimate(a) < estimate(b); });
  return all;
}

// Returns roughly the nanoseconds per image and timestep if one input in eight fires. It decides only what is not
// measured.
double Convolution::estimate(const Choice& choice) const {
  constexpr double kRate = 1.0 / 8;
  const double positions = layer_.positions(), rate = layer_.real() ? 1.0 : kRate;
  const double vectors = std::ceil(positions / kLanes);
  const double density = nonzeros_ / dense_;
  switch (choice.method) {
    case Method::events:
      return positions * (dense_ * rate / 40 + 20) * (choice.tile == 16 || dense_ > 1 << 18 ? 1.0 : 1.01);
    case Method::events_int16: return positions * (dense_ * rate / 65 + 20) * (choice.tile == 16 ? 1.0 : 1.01);
    case Method::sparse_events: return positions * (nonzeros_ * rate + 20);
    case Method::masks: return vectors * nonzeros_ * 0.35 + positions * layer_.outputs / 16;
    default:
      return vectors * dense_ / kGroup * (1 - std::pow(1 - density, kGroup)) * 0.6 + positions * layer_.outputs / 16;
  }
}

void Convolution::choose(const Choice& choice) {
  choice_ = choice;
  memory_layout_.reset();
  switch (choice.method) {
    case Method::events: memory_layout_ = make_row_layout(layer_, Storage::dense, choice.tile); break;
    case Method::events_int16: memory_layout_ = make_row_layout(layer_, Storage::int16, choice.tile); break;
    case Method::sparse_events: memory_layout_ = make_row_layout(layer_, Storage::sparse, choice.tile); break;
    case Method::masks: memory_layout_ = make_mask_layout(layer_); break;
    default: memory_layout_ = make_table_layout(layer_);
  }
}

void Convolution::forget_csr() {
  for (Source& source : layer_.sources) source.weight = {};
}

void Convolution::place(int output, int index) {
  Operation::place(output, index);
  layer_.output = output;
  layer_.index = index;
}

}  // namespace spiketicket
