// The operations without weights.
#pragma once
#include <memory>
#include <vector>

#include "layout.h"
#include "value.h"

namespace spiketicket {

std::unique_ptr<Operation> make_neurons(const std::vector<Value>& values, int input, const LifParameters& lif);
std::unique_ptr<Operation> make_unroll(const std::vector<Value>& values, int input);
std::unique_ptr<Operation> make_pooling(const std::vector<Value>& values, int input, const Geometry& geometry, bool max,
                                        int height, int width);
std::unique_ptr<Operation> make_addition(const std::vector<Value>& values, int a, int b);

}  // namespace spiketicket
