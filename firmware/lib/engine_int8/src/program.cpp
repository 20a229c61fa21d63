#include "engine_int8/program.h"

#include <cstring>

#include "engine_int8/fixed_point.h"
#include "engine_int8/lookup_table.h"

namespace hil::int8 {

namespace {

constexpr uint32_t kMaxVector = UINT16_MAX;  // the protocol counts the elements of a tensor in 16 bits
constexpr int32_t kMaxShift = 30;

/// A tensor that an operator reads or writes at run time: int8 with one scale, or float32.
struct Operand {
  Tensor tensor;
  uint32_t number;
  QuantParams quant;
  void* data;
};

class Builder {
 public:
  Builder(TfliteModel* model, Cursor* cursor, Program* program, Refusal* refusal)
      : model_(*model), cursor_(*cursor), program_(*program), refusal_(*refusal) {}

  Status Build();

 private:
  Status AddStep(uint32_t index);
  bool AddFullyConnected(const Operator& op, const Operand& input, const Operand& output, Step* step);
  bool ReadDenseTensors(const Operator& op, const Operand& input, const Operand& output, Tensor* weights, Tensor* bias);
  bool PrepareRows(const Tensor& weights, const Operand& input, const Operand& output, FullyConnectedLayer* layer);
  bool AddElementwise(const Operator& op, const Operand& input, const Operand& output, Step* step);
  Status ReadOperand(uint32_t number, Operand* operand);
  bool FindData(uint32_t number, uint32_t before, void** data);

  /// False, for the caller to return.
  bool Refuse(const char* reason) {
    refusal_.reason = reason;
    return false;
  }

  TfliteModel& model_;
  Cursor& cursor_;
  Program& program_;
  Refusal& refusal_;
  uint32_t scratch_bytes_ = 0;  // the most that a dense layer needs
};

Status Builder::Build() {
  if (!model_.ok() || !model_.HasPolicyShape() || model_.operators() > kMaxOperators) return Status::kModelInvalid;
  Operand ends[2];
  for (uint32_t i = 0; i < 2; ++i) {
    const Status status = ReadOperand(i == 0 ? model_.input() : model_.output(), &ends[i]);
    if (status != Status::kOk) return status;
    if (ends[i].tensor.type != TensorType::kInt8) return Status::kModelNotInt8;
  }
  program_.input_quant = ends[0].quant;
  program_.output_quant = ends[1].quant;
  program_.n_obs = ends[0].tensor.elements;
  program_.n_act = ends[1].tensor.elements;
  program_.n_steps = model_.operators();
  program_.steps = cursor_.Take<Step>(program_.n_steps);
  program_.input = cursor_.Take<int8_t>(program_.n_obs);
  for (uint32_t i = 0; i < program_.n_steps; ++i) {
    const Status status = AddStep(i);
    if (status != Status::kOk) return model_.ok() ? status : Status::kModelInvalid;
  }
  program_.scratch = cursor_.Take<uint32_t>(scratch_bytes_ / 4);
  refusal_ = {};
  void* output = nullptr;
  const bool computed = model_.output() != model_.input() && FindData(model_.output(), program_.n_steps, &output);
  program_.output = static_cast<const int8_t*>(output);
  return computed && model_.ok() ? Status::kOk : Status::kModelInvalid;
}

Status Builder::AddStep(uint32_t index) {
  const Operator op = model_.OperatorAt(index);
  refusal_ = {index, static_cast<uint32_t>(op.code), "operands"};
  Operand input;
  Operand output;
  void* taken = nullptr;
  const bool usable = model_.Count(op.outputs) == 1 && ReadOperand(model_.TensorOf(op.inputs, 0), &input) == Status::kOk &&
                      ReadOperand(model_.TensorOf(op.outputs, 0), &output) == Status::kOk;
  // Its input must already be computed, its output must not.
  if (!usable || !FindData(input.number, index, &input.data) || output.number == model_.input() ||
      FindData(output.number, index, &taken)) {
    return Status::kUnsupportedOperator;
  }
  output.data = input.data;
  if (op.code != BuiltinOperator::kReshape) {
    // Words, so that float tensors are aligned.
    const uint32_t element_bytes = output.tensor.type == TensorType::kFloat32 ? 4 : 1;
    output.data = cursor_.Take<uint32_t>((output.tensor.elements * element_bytes + 3) / 4);
  }
  Step counted = {};
  Step* const step = program_.steps == nullptr ? &counted : &program_.steps[index];
  step->output_type = output.tensor.type;
  step->elements = output.tensor.elements;
  step->input = input.data;
  step->output = output.data;
  const bool dense = op.code == BuiltinOperator::kFullyConnected;
  const bool supported = dense ? AddFullyConnected(op, input, output, step) : AddElementwise(op, input, output, step);
  return supported ? Status::kOk : Status::kUnsupportedOperator;
}

/// Returns kOk, kModelInvalid (no such tensor, no usable shape, a constant), kModelNotInt8 (another type or quantization).
Status Builder::ReadOperand(uint32_t number, Operand* operand) {
  if (number >= model_.tensors()) return Status::kModelInvalid;
  Tensor& tensor = operand->tensor;
  tensor = model_.TensorAt(number);
  operand->number = number;
  if (tensor.elements == 0 || tensor.elements > kMaxVector || tensor.data != nullptr) return Status::kModelInvalid;
  if (tensor.type == TensorType::kFloat32) return Status::kOk;
  operand->quant.zero_point = static_cast<int8_t>(tensor.zero_point);
  const bool one_scale = tensor.scale_count == 1 && operand->quant.zero_point == tensor.zero_point;
  operand->quant.scale = one_scale ? model_.ScaleAt(tensor, 0) : 0.0F;
  return tensor.type == TensorType::kInt8 && IsScale(operand->quant.scale) ? Status::kOk : Status::kModelNotInt8;
}

/// True when the model's input or an operator before number `before` provides the tensor; `data` is nullptr when only counting.
bool Builder::FindData(uint32_t number, uint32_t before, void** data) {
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

bool Builder::AddFullyConnected(const Operator& op, const Operand& input, const Operand& output, Step* step) {
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
  const FusedActivation activation = model_.ActivationOf(op);
  ActivationRange(activation, output.quant, &layer.low, &layer.high);
  const uint32_t scratch_bytes = ScratchBytes(layer.columns, layer.rows);
  scratch_bytes_ = scratch_bytes > scratch_bytes_ ? scratch_bytes : scratch_bytes_;
  return activation <= FusedActivation::kRelu6 ? PrepareRows(weights, input, output, &layer) : Refuse("fused activation");
}

bool Builder::ReadDenseTensors(const Operator& op, const Operand& input, const Operand& output, Tensor* weights, Tensor* bias) {
  const uint32_t weights_number = model_.TensorOf(op.inputs, 1);
  const uint32_t bias_number = model_.TensorOf(op.inputs, 2);
  const uint32_t rows = output.tensor.elements;
  const uint32_t columns = input.tensor.elements;
  if (weights_number >= model_.tensors() || input.tensor.type != TensorType::kInt8 || output.tensor.type != TensorType::kInt8) {
    return false;
  }
  *weights = model_.TensorAt(weights_number);
  // One input vector, one output vector: no batches.
  if (weights->type != TensorType::kInt8 || weights->data_bytes != weights->elements || weights->elements == 0 ||
      weights->last_dimension != columns || weights->elements / columns != rows || output.tensor.last_dimension != rows ||
      !model_.HasPlainWeights(op)) {
    return Refuse("weights");
  }
  if (!weights->symmetric || (weights->scale_count != 1 && (weights->scale_count != rows || weights->quantized_dimension != 0))) {
    return Refuse("weight scales");
  }
  if (bias_number < model_.tensors()) {
    *bias = model_.TensorAt(bias_number);
    if (bias->type != TensorType::kInt32 || bias->elements != rows || bias->data_bytes != 4 * rows) return Refuse("bias");
  }
  return true;
}

bool Builder::PrepareRows(const Tensor& weights, const Operand& input, const Operand& output, FullyConnectedLayer* layer) {
  int32_t* no_bias = layer->bias == nullptr ? cursor_.Take<int32_t>(layer->rows) : nullptr;
#if HIL_FOLDS_BIAS
  int32_t* folded_bias = cursor_.Take<int32_t>(layer->rows);
  layer->folded_bias = folded_bias;
#endif
  int32_t* fractions = cursor_.Take<int32_t>(layer->rows);
  int8_t* shifts = cursor_.Take<int8_t>(layer->rows);
  layer->fractions = fractions;
  layer->shifts = shifts;
  layer->fits = true;
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

bool Builder::AddElementwise(const Operator& op, const Operand& input, const Operand& output, Step* step) {
  const bool from_float = input.tensor.type == TensorType::kFloat32;
  const bool to_float = output.tensor.type == TensorType::kFloat32;
  if (input.tensor.elements != output.tensor.elements) return false;
  if (op.code == BuiltinOperator::kReshape) {
    step->kind = StepKind::kAlias;
    return from_float == to_float &&
           (from_float || (input.quant.scale == output.quant.scale && input.quant.zero_point == output.quant.zero_point));
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

}  // namespace

Status BuildProgram(TfliteModel* model, Cursor* cursor, Program* program, Refusal* refusal) {
  *refusal = {};
  return Builder(model, cursor, program, refusal).Build();
}

}  // namespace hil::int8
