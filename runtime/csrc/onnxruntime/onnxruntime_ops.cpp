// The operators of the domain ai.spiketicket as a library of custom operators for onnxruntime. If it is registered,
// onnxruntime runs these kernels instead of the operators' bodies in the model file (docs/formats.md).
//
// The library is not linked against onnxruntime, which passes its functions as pointers. No exception leaves the
// library.
#define ORT_API_MANUAL_INIT
#include <onnxruntime_cxx_api.h>

#include <algorithm>
#include <atomic>
#include <exception>
#include <memory>
#include <mutex>
#include <numeric>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "onnxruntime/standalone.h"

namespace spiketicket {
namespace {

constexpr uint32_t kApiVersion = 18;  // onnxruntime 1.18 and later; nothing newer is called
static_assert(ORT_API_VERSION >= kApiVersion, "onnxruntime's headers are too old");

const char* const kDomain = "ai.spiketicket";
constexpr size_t kNeuronsPerTask = 8192;

OrtStatusPtr failure(OrtErrorCode code, const std::string& name, const char* what) {
  std::string message;
  try {
    message = std::string(kDomain) + " " + name + ": " + what;
  } catch (...) {
  }
  return Ort::GetApi().CreateStatus(code, message.empty() ? what : message.c_str());
}

// Calls body(), and returns an exception that it throws as a status of onnxruntime.
template <class Body>
OrtStatusPtr guarded(const std::string& name, const Body& body) noexcept {
  try {
    body();
    return nullptr;
  } catch (const std::invalid_argument& error) {
    return failure(ORT_INVALID_ARGUMENT, name, error.what());
  } catch (const std::bad_alloc&) {
    return failure(ORT_RUNTIME_EXCEPTION, name, "out of memory");
  } catch (const std::exception& error) {
    return failure(ORT_RUNTIME_EXCEPTION, name, error.what());
  } catch (...) {
    return failure(ORT_RUNTIME_EXCEPTION, name, "unknown error");
  }
}

// The threads of onnxruntime. Each of them takes tasks until none is left.
class Strips : public Workers {
 public:
  explicit Strips(const Ort::KernelContext& context) : context_(context) {}
  int workers() const override {
    static const int most = std::clamp(int(std::thread::hardware_concurrency()), 1, 256);
    return most;
  }

  void for_each(int tasks, const std::function<void(int, int)>& body) const override {
    Job job{tasks, &body};
    const int strips = std::min(tasks, workers());
    if (strips <= 1)
      run(&job, 0);
    else
      context_.ParallelFor(run, size_t(strips), 0, &job);
    if (job.error) std::rethrow_exception(job.error);
  }

 private:
  struct Job {
    int tasks;
    const std::function<void(int, int)>* body;
    std::atomic<int> next{0};
    std::mutex mutex{};
    std::exception_ptr error{};
  };

  static void run(void* data, size_t strip) {
    Job& job = *static_cast<Job*>(data);
    try {
      for (int task = job.next++; task < job.tasks; task = job.next++) (*job.body)(task, int(strip));
    } catch (...) {
      const std::lock_guard lock(job.mutex);
      job.error = std::current_exception();
    }
  }

  const Ort::KernelContext& context_;
};

// Returns the pool of workspaces that all layers share, and which is freed with the last of them.
std::shared_ptr<WorkspacePool> shared_workspaces() {
  static std::mutex mutex;
  static std::weak_ptr<WorkspacePool> present;
  const std::lock_guard lock(mutex);
  std::shared_ptr<WorkspacePool> pool = present.lock();
  if (pool == nullptr) present = pool = std::make_shared<WorkspacePool>();
  return pool;
}

// Returns the elements of a constant input. Throws if its element type is none of `From`.
template <class To, class... From>
std::vector<To> constant(const Ort::ConstKernelInfo& info, size_t index, const char* name) {
  int is_constant = 0;
  const Ort::ConstValue value = info.GetTensorConstantInput(index, &is_constant);
  require(is_constant != 0, std::string(name) + " must be an initializer");
  const Ort::TensorTypeAndShapeInfo type = value.GetTensorTypeAndShapeInfo();
  require(type.GetDimensionsCount() == 1,
          std::string(name) + " must have one dimension, got shape " + text(type.GetShape()));
  std::vector<To> elements(type.GetElementCount());
  const auto copy = [&]<class Element>(const Element* from) {
    if constexpr (std::is_same_v<Element, Ort::Float16_t>)
      std::transform(from, from + elements.size(), elements.begin(), [](Element e) { return To(e.ToFloat()); });
    else
      std::copy(from, from + elements.size(), elements.begin());
  };
  const bool known = ((type.GetElementType() == Ort::TypeToTensorType<From>::type
                           ? (elements.empty() ? void() : copy(value.GetTensorData<From>()), true)
                           : false) ||
                      ...);
  require(known, std::string(name) + " has an element type that it must not have");
  return elements;
}

std::vector<int64_t> shape_of(const Ort::ConstValue& value) { return value.GetTensorTypeAndShapeInfo().GetShape(); }

int64_t product(std::vector<int64_t>::const_iterator from, std::vector<int64_t>::const_iterator to) {
  return std::accumulate(from, to, int64_t(1), std::multiplies<int64_t>());
}

// The kernel of SparseConv and SparseLinear.
class LayerKernel {
 public:
  LayerKernel(const Ort::ConstKernelInfo& info, const std::string& name, bool linear) : name_(name), linear_(linear) {
    std::vector<int64_t> shape = info.GetAttributes<int64_t>("weight_shape");
    require(shape.size() == (linear ? 2 : 4),
            "weight_shape must have " + std::to_string(linear ? 2 : 4) + " sizes, got " + text(shape));
    const auto attribute = [&](const char* name, std::vector<int64_t> otherwise) {
      return linear ? otherwise : info.GetAttributes<int64_t>(name);
    };
    Csr csr{constant<float, float, Ort::Float16_t, int8_t, int16_t>(info, 1, "values"),
            constant<uint32_t, uint16_t, uint32_t>(info, 2, "indices"), constant<int32_t, int32_t>(info, 3, "indptr")};
    if (info.GetInputCount() > 5) scale(csr, constant<float, float>(info, 5, "scales"));
    layer_ = std::make_unique<StandaloneLayer>(std::move(shape), std::move(csr),
                                               constant<float, float>(info, 4, "bias"), attribute("strides", {1, 1}),
                                               attribute("pads", {0, 0, 0, 0}), attribute("dilations", {1, 1}),
                                               linear ? 1 : info.GetAttribute<int64_t>("group"), shared_workspaces());
  }

  OrtStatusPtr ComputeV2(OrtKernelContext* raw) {
    return guarded(name_, [&] {
      const Ort::KernelContext context(raw);
      const Ort::ConstValue x = context.GetInput(0);
      std::vector<int64_t> shape = shape_of(x);
      int64_t channels, height = 1, width = 1;
      std::vector<int64_t>::const_iterator leading;
      if (linear_) {
        require(shape.size() >= 1, "X must have a dimension");
        leading = shape.end() - 1;
        channels = shape.back();
      } else {
        require(shape.size() == 4 || shape.size() == 5, "X must have 4 or 5 dimensions, got shape " + text(shape));
        leading = shape.end() - 3;
        channels = leading[0], height = leading[1], width = leading[2];
      }
      const bool timed = leading - shape.cbegin() > 1;
      const int64_t timesteps = timed ? shape[0] : 1, images = product(shape.cbegin() + timed, leading);
      const auto [out_height, out_width] = layer_->output_size(channels, height, width);
      std::vector<int64_t> out(shape.cbegin(), leading);
      out.push_back(layer_->outputs());
      if (!linear_) out.insert(out.end(), {out_height, out_width});
      Ort::UnownedValue y = context.GetOutput(0, out);
      if (timesteps == 0 || images == 0) return;
      layer_->run(x.GetTensorData<float>(), timesteps, images, int(height), int(width), y.GetTensorMutableData<float>(),
                  Strips(context));
    });
  }

 private:
  // Multiplies integer weights by the scale of their row. The layer checks the rows themselves.
  static void scale(Csr& csr, const std::vector<float>& scales) {
    require(csr.indptr.size() == scales.size() + 1, "scales must have an entry for every row");
    for (size_t row = 0; row < scales.size(); ++row)
      for (int64_t i = std::max(csr.indptr[row], 0); i < std::min<int64_t>(csr.indptr[row + 1], csr.values.size()); ++i)
        csr.values[i] *= scales[row];
  }

  std::string name_;
  bool linear_;
  std::unique_ptr<StandaloneLayer> layer_;
};

// Returns an attribute, or a default if it is missing.
std::optional<float> optional_float(const Ort::ConstKernelInfo& info, const char* name) {
  float value = 0.0f;
  const Ort::Status missing(Ort::GetApi().KernelInfoGetAttribute_float(info, name, &value));
  int64_t integer;
  const Ort::Status no_integer(Ort::GetApi().KernelInfoGetAttribute_int64(info, name, &integer));
  require(missing.IsOK() || !no_integer.IsOK(), std::string(name) + " must be a float");
  return missing.IsOK() ? std::optional(value) : std::nullopt;
}

class LifKernel {
 public:
  LifKernel(const Ort::ConstKernelInfo& info, const std::string& name) : name_(name) {
    // The factors are rounded as in the operator's body, and potentials are relative to rest.
    const float tau = info.GetAttribute<float>("tau"), threshold = info.GetAttribute<float>("v_threshold");
    require(tau > 0, "tau must be above 0, got " + std::to_string(tau));
    const bool decays = info.GetAttribute<int64_t>("decay_input") != 0;
    const std::optional<float> rest = optional_float(info, "v_reset"), drop = optional_float(info, "v_drop");
    require(!rest || !drop, "v_drop belongs to a soft reset, v_reset to a hard one");
    const float rate = 1.0f / tau;  // 0 without a leak
    lif_ = {1.0f - rate, decays ? rate : 1.0f, threshold - rest.value_or(0.0f), drop.value_or(threshold), !rest};
  }

  OrtStatusPtr ComputeV2(OrtKernelContext* raw) {
    return guarded(name_, [&] {
      const Ort::KernelContext context(raw);
      const Ort::ConstValue x = context.GetInput(0);
      const std::vector<int64_t> shape = shape_of(x);
      require(shape.size() >= 2, "X must have at least 2 dimensions, got shape " + text(shape));
      const size_t neurons = size_t(product(shape.begin() + 1, shape.end()));
      Ort::UnownedValue spikes = context.GetOutput(0, shape);
      if (neurons == 0 || shape[0] == 0) return;
      const float* from = x.GetTensorData<float>();
      float* to = spikes.GetTensorMutableData<float>();
      Strips(context).for_each(int((neurons + kNeuronsPerTask - 1) / kNeuronsPerTask), [&](int task, int) {
        const size_t first = task * kNeuronsPerTask;
        fire_plain(lif_, from + first, shape[0], neurons, std::min(kNeuronsPerTask, neurons - first), to + first);
      });
    });
  }

 private:
  std::string name_;
  LifParameters lif_;
};

// Creates a kernel. The message of an error names the operator and, once it is known, the node.
template <class Kernel, class... Options>
OrtStatusPtr create(const char* op, const OrtKernelInfo* raw, void** kernel, Options... options) {
  std::string name = op;
  return guarded(name, [&] {
    const Ort::ConstKernelInfo info(raw);
    name.append(" ").append(info.GetNodeName());
    *kernel = new Kernel(info, name, options...);
  });
}

template <class Op, class Kernel>
struct CustomOp : Ort::CustomOpBase<Op, Kernel, true> {
  CustomOp() { OrtCustomOp::version = kApiVersion; }
  size_t GetOutputTypeCount() const { return 1; }
  ONNXTensorElementDataType GetOutputType(size_t) const { return ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT; }
};

template <bool Linear>
struct LayerOp : CustomOp<LayerOp<Linear>, LayerKernel> {
  const char* GetName() const { return Linear ? "SparseLinear" : "SparseConv"; }
  size_t GetInputTypeCount() const { return 6; }
  OrtCustomOpInputOutputCharacteristic GetInputCharacteristic(size_t index) const {
    return index == 5 ? INPUT_OUTPUT_OPTIONAL : INPUT_OUTPUT_REQUIRED;  // scales of whole numbers
  }
  ONNXTensorElementDataType GetInputType(size_t index) const {  // values and indices have more than one; see constant()
    return index == 0   ? ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT
           : index >= 4 ? ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT
           : index == 3 ? ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32
                        : ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED;
  }
  OrtStatusPtr CreateKernelV2(const OrtApi&, const OrtKernelInfo* info, void** kernel) const {
    return create<LayerKernel>(GetName(), info, kernel, Linear);
  }
};

struct LifOp : CustomOp<LifOp, LifKernel> {
  const char* GetName() const { return "LIF"; }
  size_t GetInputTypeCount() const { return 1; }
  ONNXTensorElementDataType GetInputType(size_t) const { return ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT; }
  OrtStatusPtr CreateKernelV2(const OrtApi&, const OrtKernelInfo* info, void** kernel) const {
    return create<LifKernel>(GetName(), info, kernel);
  }
};

// Sessions refer to it until they are destroyed, possibly at exit, so it is never destroyed.
OrtCustomOpDomain* domain() {
  static OrtCustomOpDomain* const domain = [] {
    Ort::CustomOpDomain made(kDomain);
    made.Add(new LayerOp<false>);
    made.Add(new LayerOp<true>);
    made.Add(new LifOp);
    return made.release();
  }();
  return domain;
}

}  // namespace
}  // namespace spiketicket

// The entry point that SessionOptions.register_custom_ops_library calls.
extern "C" __attribute__((visibility("default"))) OrtStatus* RegisterCustomOps(OrtSessionOptions* options,
                                                                               const OrtApiBase* base) {
  const OrtApi* api = base->GetApi(spiketicket::kApiVersion);
  if (api == nullptr)
    return base->GetApi(1)->CreateStatus(ORT_FAIL, "the operators of ai.spiketicket need onnxruntime 1.18 or later");
  Ort::InitApi(api);
  return spiketicket::guarded("", [&] { Ort::ThrowOnError(api->AddCustomOpDomain(options, spiketicket::domain())); });
}
