// The Python bindings of the engine: the module spiketicket.runtime.engines.native._native. The callers in
// runtime/engines/native/ have checked the arguments.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/unique_ptr.h>
#include <nanobind/stl/vector.h>

#include "network/network.h"

namespace nb = nanobind;
using namespace nb::literals;
using namespace spiketicket;

namespace {

template <class Element>
using Array = nb::ndarray<Element, nb::c_contig, nb::device::cpu>;

template <class Element>
std::span<const Element> view(const Array<const Element>& array) {
  return {array.data(), array.size()};
}

// A run that computes one timestep per call.
class Stepper {
 public:
  Stepper(Network& network, const Array<const float>& x, int images, int timesteps) : network_(network) {
    const nb::gil_scoped_release release;
    state_ = network.begin(x.data(), images, timesteps);
  }
  Stepper(const Stepper&) = delete;
  Stepper& operator=(const Stepper&) = delete;

  void step(const Array<float>& logits) {
    const nb::gil_scoped_release release;
    network_.step(state_, logits.data());
  }

 private:
  Network& network_;
  Network::State state_;
};

using Recordings = std::vector<std::pair<int, Array<uint8_t>>>;

void run(Network& network, const Array<const float>& x, int images, int timesteps, const Array<float>& logits,
         const Recordings& recordings, const std::optional<Array<double>>& times) {
  std::vector<std::pair<int, uint8_t*>> spikes;
  for (const auto& [value, array] : recordings) spikes.emplace_back(value, array.data());
  const std::span<double> clocks = times ? std::span(times->data(), times->size()) : std::span<double>();
  const nb::gil_scoped_release release;
  network.run(x.data(), images, timesteps, logits.data(), spikes, clocks);
}

Source source(int value, const Geometry& geometry, int groups, const Array<const float>& values,
              const Array<const uint32_t>& indices, const Array<const int32_t>& indptr) {
  return {value, geometry, groups, {view(values), view(indices), view(indptr)}};
}

int layer(Network& network, const std::vector<Source>& sources, const std::vector<int>& residuals,
          const Array<const float>& bias, const std::optional<LifParameters>& lif) {
  return network.layer(sources, residuals, int(bias.size()), view(bias), lif);
}

nb::typed<nb::dict, nb::str, nb::str> build_info() {
  nb::typed<nb::dict, nb::str, nb::str> info;
  info["compiler"] = "g++ " __VERSION__;
#ifdef __SANITIZE_ADDRESS__
  info["sanitizers"] = "address, undefined";
#elif defined(__SANITIZE_THREAD__)
  info["sanitizers"] = "thread";
#else
  info["sanitizers"] = "";
#endif
  info["isa"] = select_kernels().isa;
  std::string isas;
  for (const Kernels* kernels : present_kernels()) isas += (isas.empty() ? "" : ", ") + std::string(kernels->isa);
  info["isas"] = isas;
  return info;
}

}  // namespace

NB_MODULE(_native, m) {
  nb::class_<LifParameters>(m, "Lif").def(nb::init<float, float, float, float, bool>(), "keep"_a, "gain"_a, "level"_a,
                                          "drop"_a, "soft"_a);

  nb::class_<Leak>(m, "Leak").def(nb::init<float, float>(), "keep"_a, "gain"_a);

  nb::class_<Geometry>(m, "Geometry")
      .def(
          "__init__",
          [](Geometry* self, std::tuple<int, int> kernel, std::tuple<int, int> strides,
             std::tuple<int, int, int, int> pads, std::tuple<int, int> dilations) {
            const auto [ky, kx] = kernel;
            const auto [sy, sx] = strides;
            const auto [top, left, bottom, right] = pads;
            const auto [dy, dx] = dilations;
            new (self) Geometry{ky, kx, sy, sx, top, left, bottom, right, dy, dx};
          },
          "kernel"_a, "strides"_a = std::make_tuple(1, 1), "pads"_a = std::make_tuple(0, 0, 0, 0),
          "dilations"_a = std::make_tuple(1, 1));

  nb::class_<Source>(m, "Source", "One convolution of a layer. Does not own the arrays.")
      .def_static("of", &source, "value"_a, "geometry"_a, "groups"_a, "values"_a, "indices"_a, "indptr"_a);

  nb::class_<Stepper>(m, "Stepper").def("step", &Stepper::step, "logits"_a);

  nb::class_<Network>(m, "Network")
      .def(nb::init<int, bool>(), "threads"_a, "int16"_a)
      .def("input", &Network::input, "channels"_a, "height"_a, "width"_a, "timed"_a)
      .def("layer", &layer, "sources"_a, "residuals"_a, "bias"_a, "lif"_a.none())
      .def("neurons", &Network::neurons, "input"_a, "lif"_a)
      .def("integrators", &Network::integrators, "input"_a, "leak"_a)
      .def("max_pool", &Network::max_pool, "input"_a, "geometry"_a)
      .def("avg_pool", &Network::avg_pool, "input"_a, "geometry"_a)
      .def("add", &Network::add, "a"_a, "b"_a)
      .def("conjunction", &Network::conjunction, "a"_a, "b"_a, "negated"_a)
      .def("concatenation", &Network::concatenation, "parts"_a)
      .def("flat", &Network::flat, "input"_a)
      .def("finish", &Network::finish, "output"_a)
      .def("run", &run, "x"_a, "images"_a, "timesteps"_a, "logits"_a, "recordings"_a, "times"_a.none())
      .def_prop_ro("operations", &Network::operations)
      .def("choices", &Network::choices, "value"_a)
      .def("choose", &Network::choose, "value"_a, "kernel"_a)
      .def(
          "measure",
          [](Network& network, const Array<const float>& x, int images, int timesteps) {
            const nb::gil_scoped_release release;
            network.measure(x.data(), images, timesteps);
          },
          "x"_a, "images"_a, "timesteps"_a)
      .def("guess", &Network::guess)
      .def("planned", &Network::planned)
      .def("chosen", &Network::chosen, "value"_a)
      .def("measured", &Network::measured, "value"_a)
      .def("weight_bytes", &Network::weight_bytes, "value"_a)
      .def("operation_of", &Network::operation_of, "value"_a)
      .def(
          "begin",
          [](Network& network, const Array<const float>& x, int images, int timesteps) {
            return std::make_unique<Stepper>(network, x, images, timesteps);
          },
          "x"_a, "images"_a, "timesteps"_a, nb::keep_alive<0, 1>())
      .def_prop_ro("isa", &Network::isa);

  m.def("build_info", &build_info, "Compiler, sanitizers and instruction set in use.");
}
