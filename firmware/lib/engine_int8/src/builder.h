// How a model becomes a program, once without kernels and once with: an image without them has none of what they need.
#pragma once

#include <cstdint>
#include <cstring>

#include "engine_int8/fixed_point.h"
#include "engine_int8/kernel.h"
#include "engine_int8/lookup_table.h"
#include "engine_int8/program.h"

namespace hil::int8 {

constexpr uint32_t kMaxVector = 1 << 20;  // elements of input and output, and without kernels of every tensor
constexpr int32_t kMaxShift = 30;

/// A tensor that an operator reads or writes at run time: int8 with one scale, or float32.
struct Operand {
  Tensor tensor;
  uint32_t number;
  QuantParams quant;
  const void* data;  // nullptr while only counting
};

/// Sizes of a tensor of at most four dimensions, with ones in front of them.
struct Shape {
  uint32_t rank;
  uint32_t sizes[4];
};

/// Returns false.
bool SetReason(const char* reason, Refusal* refusal);

/// Places input and outputs of all operators in one memory, in which those overlap that are never needed at once. Sets
/// `*input`, and the outputs of `steps` unless that is nullptr. Returns the bytes needed; `memory` is nullptr while they are
/// only counted.
uint32_t ShareMemory(TfliteModel* model, uint8_t* memory, Step* steps, int8_t** input);

struct WithKernels {
  static constexpr bool kKernels = true;
};

/// `Kind` says by kKernels whether there are any.
template <typename Kind>
class BuilderOf {
  static constexpr bool kKernels = Kind::kKernels;

 public:
  BuilderOf(TfliteModel* model, const KernelTable* kernels, bool shares_memory, Cursor* cursor, Program* program,
            Signature* signature, Refusal* refusal)
      : model_(*model),
        kernels_(kernels),
        shares_memory_(shares_memory),
        cursor_(*cursor),
        program_(*program),
        signature_(*signature),
        refusal_(*refusal) {}

  Status Build();

  // For kernels.

  TfliteModel& model() { return model_; }
  Cursor& cursor() { return cursor_; }

  /// False, for the caller to return.
  bool Refuse(const char* reason) { return SetReason(reason, &refusal_); }

  /// Demands scratch memory of the operator that is prepared.
  void NeedScratch(uint32_t bytes) { scratch_bytes_ = bytes > scratch_bytes_ ? bytes : scratch_bytes_; }

  /// Memory for the parameters of a kernel in the arena; `counted` if there is none.
  template <typename Parameters>
  Parameters& ParametersOf(Step* step, Parameters* counted) {
    Parameters* const taken = cursor_.Take<Parameters>(1);
    step->linked.parameters = taken;
    return taken == nullptr ? *counted : *taken;
  }

  /// False for a tensor of more than four dimensions.
  bool ReadShape(const Tensor& tensor, Shape* shape);

  /// Field number `id` of a table: a number of int32.
  uint32_t Number(uint32_t table, uint32_t id, uint32_t fallback = 0) { return model_.file().Uint32Field(table, id, fallback); }

  /// Input number `operand` of an operator: one that is computed before it, or if `allow_constant`, a constant of int8.
  bool ReadInput(const Operator& op, uint32_t operand, bool allow_constant, Operand* input);

  /// Input number `operand` of an operator if that is a constant of int32, of at most `limit` numbers. Returns their count.
  uint32_t ReadNumbers(const Operator& op, uint32_t operand, uint32_t limit, int32_t* numbers);

  /// Weights and bias of an operator: int8 without zero point, of one scale or one for each of `rows` along `dimension`, and
  /// int32 or none.
  bool ReadWeights(const Operator& op, uint32_t rows, uint32_t dimension, Tensor* weights, Tensor* bias);

  /// Fills what belongs to each row of a layer. Its weights, bias, rows and columns must be set, and `fits` if it may be fast.
  bool PrepareRows(const Tensor& weights, const Operand& input, const Operand& output, FullyConnectedLayer* layer);

  /// Range of a fused activation. False if it is unknown.
  bool ReadActivation(const Operator& op, const OptionsType& type, const Operand& output, int8_t* low, int8_t* high);

 private:
  Status ReadSignature();
  Status AddStep(uint32_t index);
  const Kernel* FindKernel(BuiltinOperator code) const;
  Status AddShapeArithmetic(const Operator& op);
  Status Prepare(const Kernel& kernel, const Operator& op, const Operand& input, const Operand& output, Step* step);
  bool SharesMemory() const { return kKernels && shares_memory_; }
  bool AddFullyConnected(const Operator& op, const Operand& input, const Operand& output, Step* step);
  bool ReadDenseTensors(const Operator& op, const Operand& input, const Operand& output, Tensor* weights, Tensor* bias);
  bool AddElementwise(const Operator& op, const Operand& input, const Operand& output, Step* step);
  Status ReadOperand(uint32_t number, Operand* operand);
  bool FindData(uint32_t number, uint32_t before, const void** data);

  TfliteModel& model_;
  const KernelTable* kernels_;
  bool shares_memory_;
  Cursor& cursor_;
  Program& program_;
  Signature& signature_;
  Refusal& refusal_;
  uint32_t index_ = 0;          // of the operator that is prepared
  uint32_t scratch_bytes_ = 0;  // the most that an operator needs
};

/// True for tensors of the same scale and zero point.
inline bool SameQuant(const QuantParams& a, const QuantParams& b) { return a.scale == b.scale && a.zero_point == b.zero_point; }

template <typename Kind>
Status BuilderOf<Kind>::Build() {
  if (!model_.ok() || !model_.HasPolicyShape() || model_.operators() > kMaxOperators) return Status::kModelInvalid;
  const Status ends = ReadSignature();
  if (ends != Status::kOk) return ends;
  program_.n_steps = model_.operators();
  program_.steps = cursor_.Take<Step>(program_.n_steps);
  if (SharesMemory()) {
    const uint32_t bytes = ShareMemory(&model_, nullptr, nullptr, &program_.input);
    uint8_t* const memory = static_cast<uint8_t*>(static_cast<void*>(cursor_.Take<int32_t>(bytes / 4)));
    ShareMemory(&model_, memory, program_.steps, &program_.input);
  } else {
    program_.input = cursor_.Take<int8_t>(signature_.n_obs);
  }
  for (uint32_t i = 0; i < program_.n_steps; ++i) {
    const Status status = AddStep(i);
    if (status != Status::kOk) return model_.ok() ? status : Status::kModelInvalid;
  }
  program_.scratch = cursor_.Take<int32_t>(scratch_bytes_ / 4);
  refusal_ = {};
  const void* output = nullptr;
  const bool computed = model_.output() != model_.input() && FindData(model_.output(), program_.n_steps, &output);
  program_.output = static_cast<const int8_t*>(output);
  return computed && model_.ok() ? Status::kOk : Status::kModelInvalid;
}

template <typename Kind>
Status BuilderOf<Kind>::ReadSignature() {
  Operand ends[2];
  for (uint32_t i = 0; i < 2; ++i) {
    const Status status = ReadOperand(i == 0 ? model_.input() : model_.output(), &ends[i]);
    if (status != Status::kOk) return status;
    if (ends[i].tensor.elements > kMaxVector || ends[i].tensor.data != nullptr) return Status::kModelInvalid;
    if (ends[i].tensor.type != TensorType::kInt8) return Status::kModelNotInt8;
  }
  signature_ = {ends[0].quant, ends[1].quant, ends[0].tensor.elements, ends[1].tensor.elements};
  return Status::kOk;
}

template <typename Kind>
Status BuilderOf<Kind>::AddStep(uint32_t index) {
  const Operator op = model_.OperatorAt(index);
  index_ = index;
  refusal_ = {index, static_cast<uint32_t>(op.code), "operands"};
  const Kernel* const kernel = FindKernel(op.code);
  if constexpr (kKernels) {
    if (kernel != nullptr && kernel->prepare == nullptr) return AddShapeArithmetic(op);
  }
  Operand input;
  Operand output;
  const void* taken = nullptr;
  const bool usable = model_.Count(op.outputs) == 1 && ReadInput(op, 0, kernel != nullptr, &input) &&
                      ReadOperand(model_.TensorOf(op.outputs, 0), &output) == Status::kOk && output.tensor.data == nullptr;
  // Nothing else computes its output.
  if (!usable || output.number == model_.input() || FindData(output.number, index, &taken)) return Status::kUnsupportedOperator;
  Step counted = {};
  Step* const step = program_.steps == nullptr ? &counted : &program_.steps[index];
  if (!SharesMemory()) {
    // Words, so that float tensors are aligned.
    const uint32_t element_bytes = output.tensor.type == TensorType::kFloat32 ? 4 : 1;
    const bool is_alias = op.code == BuiltinOperator::kReshape;
    step->output =
        is_alias ? const_cast<void*>(input.data) : cursor_.Take<int32_t>((output.tensor.elements * element_bytes + 3) / 4);
  }
  output.data = step->output;
  step->output_type = SharesMemory() ? TensorType::kAbsent : output.tensor.type;
  step->elements = output.tensor.elements;
  step->input = input.data;
  if constexpr (kKernels) {
    if (kernel != nullptr) return Prepare(*kernel, op, input, output, step);
  }
  const bool dense = op.code == BuiltinOperator::kFullyConnected;
  const bool supported = dense ? AddFullyConnected(op, input, output, step) : AddElementwise(op, input, output, step);
  return supported ? Status::kOk : Status::kUnsupportedOperator;
}

template <typename Kind>
Status BuilderOf<Kind>::Prepare(const Kernel& kernel, const Operator& op, const Operand& input, const Operand& output,
                                Step* step) {
  step->kind = StepKind::kLinked;
  const bool int8 = input.tensor.type == TensorType::kInt8 && output.tensor.type == TensorType::kInt8;
  return int8 && kernel.prepare(this, op, input, output, step) ? Status::kOk : Status::kUnsupportedOperator;
}

/// A step that does nothing; what it would compute has no memory.
template <typename Kind>
Status BuilderOf<Kind>::AddShapeArithmetic(const Operator& op) {
  Tensor output;
  const uint32_t number = model_.TensorOf(op.outputs, 0);
  if (model_.Count(op.outputs) != 1 || number >= model_.tensors()) return Status::kUnsupportedOperator;
  model_.ReadTensor(number, &output);
  if (output.type != TensorType::kInt32 || output.data != nullptr) return Status::kUnsupportedOperator;
  if (program_.steps != nullptr) program_.steps[index_] = {StepKind::kAlias, TensorType::kAbsent, 0, nullptr, nullptr, {}};
  return Status::kOk;
}

template <typename Kind>
const Kernel* BuilderOf<Kind>::FindKernel(BuiltinOperator code) const {
  if (!kKernels) return nullptr;
  for (const Kernel* const* kernel = kernels_->kernels; *kernel != nullptr; ++kernel) {
    if ((*kernel)->code == code) return *kernel;
  }
  return nullptr;
}

template <typename Kind>
bool BuilderOf<Kind>::ReadInput(const Operator& op, uint32_t operand, bool allow_constant, Operand* input) {
  if (ReadOperand(model_.TensorOf(op.inputs, operand), input) != Status::kOk) return false;
  if (input->tensor.data == nullptr) return FindData(input->number, index_, &input->data);
  input->data = input->tensor.data;
  return allow_constant && input->tensor.type == TensorType::kInt8 && input->tensor.data_bytes == input->tensor.elements;
}

/// Returns kOk, kModelInvalid (no such tensor, no usable shape), kModelNotInt8 (another type or quantization).
template <typename Kind>
Status BuilderOf<Kind>::ReadOperand(uint32_t number, Operand* operand) {
  if (number >= model_.tensors()) return Status::kModelInvalid;
  Tensor& tensor = operand->tensor;
  model_.ReadTensor(number, &tensor);
  operand->number = number;
  if (tensor.elements == 0 || (!kKernels && tensor.elements > kMaxVector)) return Status::kModelInvalid;
  if (tensor.type == TensorType::kFloat32) return Status::kOk;
  operand->quant.zero_point = static_cast<int8_t>(tensor.zero_point);
  const bool one_scale = tensor.scale_count == 1 && operand->quant.zero_point == tensor.zero_point;
  operand->quant.scale = one_scale ? model_.ScaleAt(tensor, 0) : 0.0F;
  return tensor.type == TensorType::kInt8 && IsScale(operand->quant.scale) ? Status::kOk : Status::kModelNotInt8;
}

/// True when the model's input or an operator before number `before` provides the tensor; `data` is nullptr when only counting.
template <typename Kind>
bool BuilderOf<Kind>::FindData(uint32_t number, uint32_t before, const void** data) {
  if (number == model_.input()) {
    *data = program_.input;
    return true;
  }
  for (uint32_t i = 0; i < before; ++i) {
    if (model_.TensorOf(model_.OperatorAt(i).outputs, 0) == number) {
      *data = program_.steps == nullptr ? nullptr : program_.steps[i].output;
      return true;
    }
  }
  return false;
}

template <typename Kind>
bool BuilderOf<Kind>::AddFullyConnected(const Operator& op, const Operand& input, const Operand& output, Step* step) {
  Tensor weights;
  Tensor bias;
  if (!ReadDenseTensors(op, input, output, &weights, &bias)) return false;
  step->kind = StepKind::kFullyConnected;
  FullyConnectedLayer& layer = step->layer;
  layer = {};
  layer.weights = reinterpret_cast<const int8_t*>(weights.data);
  layer.bias = bias.data;
  layer.rows = output.tensor.elements;
  layer.columns = input.tensor.elements;
  layer.input_zero_point = input.quant.zero_point;
  layer.output_zero_point = output.quant.zero_point;
  layer.fits = IsLargeEnough(layer);
  NeedScratch(ScratchBytes(layer.columns, layer.rows));
  return ReadActivation(op, kFullyConnectedOptions, output, &layer.low, &layer.high) &&
         PrepareRows(weights, input, output, &layer);
}

template <typename Kind>
bool BuilderOf<Kind>::ReadActivation(const Operator& op, const OptionsType& type, const Operand& output, int8_t* low,
                                     int8_t* high) {
  const FusedActivation activation = model_.ActivationOf(op, type);
  ActivationRange(activation, output.quant, low, high);
  if (activation > FusedActivation::kRelu6) return Refuse("fused activation");
  return true;
}

template <typename Kind>
bool BuilderOf<Kind>::ReadDenseTensors(const Operator& op, const Operand& input, const Operand& output, Tensor* weights,
                                       Tensor* bias) {
  const uint32_t rows = output.tensor.elements;
  const uint32_t columns = input.tensor.elements;
  if (input.tensor.type != TensorType::kInt8 || output.tensor.type != TensorType::kInt8) return false;
  if (!ReadWeights(op, rows, 0, weights, bias)) return false;
  // One input vector, one output vector: no batches.
  if (weights->last_dimension != columns || weights->elements / columns != rows || output.tensor.last_dimension != rows ||
      !model_.HasPlainWeights(op)) {
    return Refuse("weights");
  }
  return true;
}

template <typename Kind>
bool BuilderOf<Kind>::ReadWeights(const Operator& op, uint32_t rows, uint32_t dimension, Tensor* weights, Tensor* bias) {
  *bias = {};
  const uint32_t weights_number = model_.TensorOf(op.inputs, 1);
  const uint32_t bias_number = model_.TensorOf(op.inputs, 2);
  if (weights_number >= model_.tensors()) return false;
  model_.ReadTensor(weights_number, weights);
  if (weights->type != TensorType::kInt8 || weights->data_bytes != weights->elements || weights->elements == 0) {
    return Refuse("weights");
  }
  const bool one_each = weights->scale_count == rows && weights->quantized_dimension == dimension;
  if (!weights->symmetric || (weights->scale_count != 1 && !one_each)) return Refuse("weight scales");
  if (bias_number < model_.tensors()) {
    model_.ReadTensor(bias_number, bias);
    if (bias->type != TensorType::kInt32 || bias->elements != rows || bias->data_bytes != 4 * rows) return Refuse("bias");
  }
  return true;
}

template <typename Kind>
bool BuilderOf<Kind>::PrepareRows(const Tensor& weights, const Operand& input, const Operand& output,
                                  FullyConnectedLayer* layer) {
  int32_t* no_bias = layer->bias == nullptr ? cursor_.Take<int32_t>(layer->rows) : nullptr;
#if HIL_FOLDS_BIAS
  int32_t* folded_bias = cursor_.Take<int32_t>(layer->rows);
  layer->folded_bias = folded_bias;
#endif
  int32_t* fractions = cursor_.Take<int32_t>(layer->rows);
  int8_t* shifts = cursor_.Take<int8_t>(layer->rows);
  layer->fractions = fractions;
  layer->shifts = shifts;
  if (no_bias != nullptr) {
    std::memset(no_bias, 0, 4 * layer->rows);
    layer->bias = reinterpret_cast<const uint8_t*>(no_bias);
  }
  Multiplier multiplier;
  for (uint32_t row = 0; row < layer->rows; ++row) {
    if (row < weights.scale_count) {
      const float scale = model_.ScaleAt(weights, row);
      multiplier = Quotient(input.quant.scale, scale, output.quant.scale);
      if (!IsScale(scale) || multiplier.shift > kMaxShift) return Refuse("weight scales");
    }
    if (shifts != nullptr) {  // allocated last: if it fits, so do the others
      fractions[row] = multiplier.fraction;
      // A multiplier of 0 may have any shift.
      shifts[row] = static_cast<int8_t>(multiplier.fraction == 0 ? 0 : -1 - multiplier.shift);
      layer->fits = layer->fits && RowFits(*layer, row);
#if HIL_FOLDS_BIAS
      if (layer->fits) folded_bias[row] = FoldedBias(*layer, row);
#endif
    }
  }
  return true;
}

template <typename Kind>
bool BuilderOf<Kind>::AddElementwise(const Operator& op, const Operand& input, const Operand& output, Step* step) {
  const bool from_float = input.tensor.type == TensorType::kFloat32;
  const bool to_float = output.tensor.type == TensorType::kFloat32;
  if (input.tensor.elements != output.tensor.elements) return false;
  if (op.code == BuiltinOperator::kReshape) {
    step->kind = StepKind::kAlias;
    return from_float == to_float && (from_float || SameQuant(input.quant, output.quant));
  }
  if (op.code == BuiltinOperator::kDequantize) {
    step->kind = StepKind::kDequantize;
    step->quant = input.quant;
    return !from_float && to_float;
  }
  if (op.code == BuiltinOperator::kQuantize && from_float) {
    step->kind = StepKind::kQuantize;
    step->quant = output.quant;
    return !to_float;
  }
  if (!HasTable(op.code)) return Refuse("unknown");
  step->kind = StepKind::kLookup;
  int8_t* table = cursor_.Take<int8_t>(kTableEntries);
  step->table = table;
  return !from_float && !to_float && BuildTable(op.code, input.quant, output.quant, table);
}

template <typename Kind>
bool BuilderOf<Kind>::ReadShape(const Tensor& tensor, Shape* shape) {
  shape->rank = model_.Count(tensor.shape);
  if (shape->rank > 4) return false;
  for (uint32_t i = 0; i < 4; ++i) {
    const uint32_t ones = 4 - shape->rank;
    shape->sizes[i] = i < ones ? 1 : static_cast<uint32_t>(model_.file().Int32In(tensor.shape, i - ones));
  }
  return true;
}

template <typename Kind>
uint32_t BuilderOf<Kind>::ReadNumbers(const Operator& op, uint32_t operand, uint32_t limit, int32_t* numbers) {
  const uint32_t number = model_.TensorOf(op.inputs, operand);
  if (number >= model_.tensors()) return 0;
  Tensor tensor;
  model_.ReadTensor(number, &tensor);
  const bool usable = tensor.type == TensorType::kInt32 && tensor.data != nullptr && tensor.elements <= limit &&
                      tensor.data_bytes == 4 * tensor.elements;
  if (!usable) return 0;
  std::memcpy(numbers, tensor.data, tensor.data_bytes);
  return tensor.elements;
}

}  // namespace hil::int8
