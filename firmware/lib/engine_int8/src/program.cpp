#include "engine_int8/program.h"

#include <new>

#include "engine_int8/fixed_point.h"
#include "engine_int8/lookup_table.h"

namespace hil::int8 {

namespace {

constexpr uint32_t kMaxVector = UINT16_MAX;  // INFO counts observations and actions in 16 bits
constexpr int32_t kMaxShift = 30;

/// A tensor that an operator reads or writes at run time.
struct Operand {
  Tensor tensor;
  uint32_t number = 0;
  QuantParams quant;
  void* data = nullptr;
};

bool ReadQuant(TfliteModel* model, const Tensor& tensor, QuantParams* quant) {
  if (tensor.scales.count != 1 || tensor.zero_point < INT8_MIN || tensor.zero_point > INT8_MAX) {
    return false;
  }
  quant->scale = model->ScaleAt(tensor.scales, 0);
  quant->zero_point = static_cast<int8_t>(tensor.zero_point);
  return IsScale(quant->scale);
}

uint32_t BytesOf(const Tensor& tensor) { return tensor.elements * (tensor.type == TensorType::kFloat32 ? 4u : 1u); }

class Builder {
 public:
  Builder(TfliteModel* model, Cursor* cursor, Program* program, Refusal* refusal)
      : model_(*model), cursor_(*cursor), program_(*program), refusal_(*refusal) {}

  Status Build();

 private:
  Status ReadPolicyTensor(uint32_t number, QuantParams* quant, uint32_t* elements);
  Status AddStep(uint32_t index);
  Status AddFullyConnected(const Operator& op, const Operand& input, const Operand& output, Step* step);
  Status CheckDense(const Operator& op, const Operand& input, const Operand& output, Tensor* weights, Tensor* bias);
  void PrepareRows(const Tensor& weights, const Operand& input, const Operand& output, FullyConnectedLayer* layer);
  Status AddElementwise(const Operator& op, const Operand& input, const Operand& output, Step* step);
  bool ReadOperand(uint32_t number, Operand* operand);
  bool FindData(uint32_t number, uint32_t before, void** data);
  void* TakeTensor(const Tensor& tensor);
  Status Refuse(const char* reason) {
    refusal_.reason = reason;
    return Status::kUnsupportedOperator;
  }

  TfliteModel& model_;
  Cursor& cursor_;
  Program& program_;
  Refusal& refusal_;
  uint32_t widest_input_ = 0;  // of all dense layers
};

Status Builder::Build() {
  if (!model_.ok() || !model_.HasPolicyShape() || model_.operators() > kMaxOperators || model_.tensors() > UINT16_MAX) {
    refusal_.reason = "not a model of one subgraph with one input and one output";
    return Status::kModelInvalid;
  }
  Status status = ReadPolicyTensor(model_.input(), &program_.input_quant, &program_.n_obs);
  if (status == Status::kOk) {
    status = ReadPolicyTensor(model_.output(), &program_.output_quant, &program_.n_act);
  }
  if (status != Status::kOk) {
    return status;
  }
  program_.n_steps = model_.operators();
  program_.steps = cursor_.Take<Step>(program_.n_steps);
  program_.input = cursor_.Take<int8_t>(program_.n_obs);
  for (uint32_t i = 0; i < program_.n_steps; ++i) {
    status = AddStep(i);
    if (!model_.ok()) {
      refusal_.reason = "cut off or garbled";
      return Status::kModelInvalid;
    }
    if (status != Status::kOk) {
      return status;
    }
  }
  program_.scratch = reinterpret_cast<int16_t*>(cursor_.Take<uint32_t>(ScratchBytes(widest_input_) / 4));
  void* output = nullptr;
  if (!FindData(model_.output(), program_.n_steps, &output) || model_.output() == model_.input()) {
    refusal_.reason = "no operator computes the output";
    return Status::kModelInvalid;
  }
  program_.output = static_cast<const int8_t*>(output);
  return Status::kOk;
}

Status Builder::ReadPolicyTensor(uint32_t number, QuantParams* quant, uint32_t* elements) {
  const Tensor tensor = model_.TensorAt(number);
  *elements = tensor.elements;
  if (!model_.ok() || tensor.elements == 0 || tensor.elements > kMaxVector || tensor.data != nullptr) {
    refusal_.reason = "input or output has no usable shape";
    return Status::kModelInvalid;
  }
  if (tensor.type != TensorType::kInt8 || !ReadQuant(&model_, tensor, quant)) {
    refusal_.reason = "input or output is not int8 with one scale";
    return Status::kModelNotInt8;
  }
  return Status::kOk;
}

Status Builder::AddStep(uint32_t index) {
  const Operator op = model_.OperatorAt(index);
  refusal_.op = static_cast<int32_t>(index);
  refusal_.code = static_cast<uint32_t>(op.code);
  const bool known = op.code == BuiltinOperator::kFullyConnected || op.code == BuiltinOperator::kReshape ||
                     op.code == BuiltinOperator::kDequantize || HasTable(op.code);
  if (!known) {
    return Refuse("not among this engine's operators");
  }
  Operand input;
  Operand output;
  void* taken = nullptr;
  if (op.outputs.count != 1 || !ReadOperand(model_.TensorOf(op.inputs, 0), &input) ||
      !ReadOperand(model_.TensorOf(op.outputs, 0), &output)) {
    return Refuse("operands of another shape or type than this engine knows");
  }
  if (!FindData(input.number, index, &input.data) || output.number == model_.input() || FindData(output.number, index, &taken)) {
    return Refuse("reads what nobody computed, or computes a tensor twice");
  }
  Step built = {};
  built.output_type = output.tensor.type;
  built.tensor = static_cast<uint16_t>(output.number);
  built.elements = output.tensor.elements;
  built.input = input.data;
  output.data = op.code == BuiltinOperator::kReshape ? input.data : TakeTensor(output.tensor);
  built.output = output.data;
  const Status status = op.code == BuiltinOperator::kFullyConnected ? AddFullyConnected(op, input, output, &built)
                                                                    : AddElementwise(op, input, output, &built);
  if (status == Status::kOk && program_.steps != nullptr) {
    new (&program_.steps[index]) Step(built);
  }
  return status;
}

/// A tensor that is computed: int8 with one scale, or float32. Constants are refused, weights are read elsewhere.
bool Builder::ReadOperand(uint32_t number, Operand* operand) {
  if (number >= model_.tensors()) {
    return false;
  }
  operand->number = number;
  operand->tensor = model_.TensorAt(number);
  const Tensor& tensor = operand->tensor;
  if (tensor.elements == 0 || tensor.data != nullptr) {
    return false;
  }
  return tensor.type == TensorType::kFloat32 || (tensor.type == TensorType::kInt8 && ReadQuant(&model_, tensor, &operand->quant));
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

void* Builder::TakeTensor(const Tensor& tensor) {
  // Words, so that float tensors are aligned and int8 tensors can be read four elements at a time.
  return cursor_.Take<uint32_t>((BytesOf(tensor) + 3) / 4);
}

Status Builder::CheckDense(const Operator& op, const Operand& input, const Operand& output, Tensor* weights, Tensor* bias) {
  const uint32_t weights_number = model_.TensorOf(op.inputs, 1);
  const uint32_t bias_number = model_.TensorOf(op.inputs, 2);
  if (weights_number >= model_.tensors() || input.tensor.type != TensorType::kInt8 || output.tensor.type != TensorType::kInt8) {
    return Refuse("operands are not int8");
  }
  *weights = model_.TensorAt(weights_number);
  const uint32_t rows = output.tensor.last_dimension;
  const uint32_t columns = weights->last_dimension;
  if (weights->type != TensorType::kInt8 || weights->data == nullptr || weights->data_bytes != weights->elements ||
      weights->elements == 0 || weights->elements / columns != rows || !model_.HasPlainWeights(op)) {
    return Refuse("weights are not a constant int8 matrix that fits the output");
  }
  if (output.tensor.elements != rows || input.tensor.elements != columns) {
    return Refuse("input is not one vector that fits the weights");
  }
  const bool one_scale_each = weights->scales.count == rows && (rows == 1 || weights->quantized_dimension == 0);
  if (!weights->symmetric || (weights->scales.count != 1 && !one_scale_each)) {
    return Refuse("weights are not quantised symmetrically, by tensor or by row");
  }
  if (bias_number < model_.tensors()) {
    *bias = model_.TensorAt(bias_number);
    if (bias->type != TensorType::kInt32 || bias->data == nullptr || bias->elements != rows || bias->data_bytes != 4 * rows) {
      return Refuse("bias is not a constant int32 vector that fits the output");
    }
  }
  if (static_cast<uint8_t>(model_.ActivationOf(op)) > static_cast<uint8_t>(FusedActivation::kRelu6)) {
    return Refuse("fused activation is none of RELU, RELU_N1_TO_1, RELU6");
  }
  return Status::kOk;
}

Status Builder::AddFullyConnected(const Operator& op, const Operand& input, const Operand& output, Step* step) {
  Tensor weights;
  Tensor bias;
  const Status status = CheckDense(op, input, output, &weights, &bias);
  if (status != Status::kOk) {
    return status;
  }
  for (uint32_t i = 0; i < weights.scales.count; ++i) {
    const float scale = model_.ScaleAt(weights.scales, i);
    if (!IsScale(scale) || Quotient(input.quant.scale, scale, output.quant.scale).shift > kMaxShift) {
      return Refuse("a scale of the weights is out of range");
    }
  }
  step->kind = StepKind::kFullyConnected;
  FullyConnectedLayer& layer = step->layer;
  layer = {};
  layer.weights = reinterpret_cast<const int8_t*>(weights.data);
  layer.bias = bias.data;
  layer.rows = output.tensor.elements;
  layer.columns = input.tensor.elements;
  layer.input_zero_point = input.quant.zero_point;
  layer.output_zero_point = output.quant.zero_point;
  layer.low = INT8_MIN;
  layer.high = INT8_MAX;
  switch (model_.ActivationOf(op)) {
    case FusedActivation::kNone:
      break;
    case FusedActivation::kRelu6:
      layer.high = Quantize(6.0F, output.quant);
      [[fallthrough]];
    case FusedActivation::kRelu:
      layer.low = output.quant.zero_point;
      break;
    case FusedActivation::kReluN1To1:
      layer.low = Quantize(-1.0F, output.quant);
      layer.high = Quantize(1.0F, output.quant);
      break;
  }
  PrepareRows(weights, input, output, &layer);
  widest_input_ = layer.columns > widest_input_ ? layer.columns : widest_input_;
  return Status::kOk;
}

void Builder::PrepareRows(const Tensor& weights, const Operand& input, const Operand& output, FullyConnectedLayer* layer) {
  int32_t* fractions = cursor_.Take<int32_t>(layer->rows);
  int8_t* shifts = cursor_.Take<int8_t>(layer->rows);
  layer->fractions = fractions;
  layer->shifts = shifts;
  if (fractions == nullptr || shifts == nullptr) {
    return;
  }
  layer->fits = true;
  Multiplier multiplier;
  for (uint32_t row = 0; row < layer->rows; ++row) {
    if (row < weights.scales.count) {
      multiplier = Quotient(input.quant.scale, model_.ScaleAt(weights.scales, row), output.quant.scale);
    }
    fractions[row] = multiplier.fraction;
    // A multiplier of 0 may have any shift.
    shifts[row] = static_cast<int8_t>(multiplier.fraction == 0 ? 0 : -1 - multiplier.shift);
    layer->fits = layer->fits && RowFits(*layer, row);
  }
}

Status Builder::AddElementwise(const Operator& op, const Operand& input, const Operand& output, Step* step) {
  const TensorType from = input.tensor.type;
  const TensorType to = output.tensor.type;
  if (input.tensor.elements != output.tensor.elements) {
    return Refuse("input and output differ in size");
  }
  if (op.code == BuiltinOperator::kReshape) {
    step->kind = StepKind::kAlias;
    const bool same = from == to && (from == TensorType::kFloat32 || (input.quant.scale == output.quant.scale &&
                                                                      input.quant.zero_point == output.quant.zero_point));
    return same ? Status::kOk : Refuse("input and output differ in type or scale");
  }
  if (op.code == BuiltinOperator::kDequantize) {
    step->kind = StepKind::kDequantize;
    step->quant = input.quant;
    return from == TensorType::kInt8 && to == TensorType::kFloat32 ? Status::kOk : Refuse("not from int8 to float32");
  }
  if (to != TensorType::kInt8) {
    return Refuse("output is not int8");
  }
  if (op.code == BuiltinOperator::kQuantize && from == TensorType::kFloat32) {
    step->kind = StepKind::kQuantize;
    step->quant = output.quant;
    return Status::kOk;
  }
  if (from != TensorType::kInt8 || !TableIsDefined(op.code, input.quant, output.quant)) {
    return Refuse("no int8 to int8 with scales that TFLM defines");
  }
  step->kind = StepKind::kLookup;
  int8_t* table = cursor_.Take<int8_t>(kTableEntries);
  if (table != nullptr) {
    BuildTable(op.code, input.quant, output.quant, table);
  }
  step->table = table;
  return Status::kOk;
}

}  // namespace

Status BuildProgram(TfliteModel* model, Cursor* cursor, Program* program, Refusal* refusal) {
  *program = {};
  *refusal = {};
  return Builder(model, cursor, program, refusal).Build();
}

}  // namespace hil::int8
