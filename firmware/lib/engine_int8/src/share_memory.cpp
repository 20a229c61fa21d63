// Memory that tensors share which are never needed at once.
#include "engine_int8/program.h"

namespace hil::int8 {

namespace {

constexpr uint32_t kInput = 0;  // number of the model's input among the blocks; operator i writes block i + 1

/// A piece of memory, needed from one operator to another; `bytes` is 0 for one that is part of another's.
struct Block {
  uint32_t bytes;
  uint32_t offset;
  uint8_t first;
  uint8_t last;
  uint8_t owner;
  bool placed;
};
static_assert(kMaxOperators + 1 <= UINT8_MAX);

/// Number of the block that holds a tensor, before operator `before` runs; `before + 1` if there is none.
uint32_t BlockOf(TfliteModel* model, const Block* blocks, uint32_t number, uint32_t before) {
  if (number == model->input()) return kInput;
  for (uint32_t i = 0; i < before; ++i) {
    if (model->TensorOf(model->OperatorAt(i).outputs, 0) == number) return blocks[i + 1].owner;
  }
  return before + 1;
}

uint32_t BytesOf(TfliteModel* model, uint32_t number) {
  Tensor tensor;
  model->ReadTensor(number, &tensor);
  if (tensor.type == TensorType::kInt32) return 0;  // of shape arithmetic
  return (tensor.elements * (tensor.type == TensorType::kFloat32 ? 4 : 1) + 3) & ~3u;
}

void FindLifetimes(TfliteModel* model, uint32_t count, Block* blocks) {
  blocks[kInput] = {BytesOf(model, model->input()), 0, 0, 0, kInput, false};
  for (uint32_t i = 0; i < count; ++i) {
    const Operator op = model->OperatorAt(i);
    const auto time = static_cast<uint8_t>(i + 1);
    Block& output = blocks[i + 1];
    const uint32_t number = model->TensorOf(op.outputs, 0);
    output = {number < model->tensors() ? BytesOf(model, number) : 0, 0, time, time, time, false};
    for (uint32_t operand = 0; operand < 2; ++operand) {
      const uint32_t source = BlockOf(model, blocks, model->TensorOf(op.inputs, operand), i);
      if (source > i) continue;
      blocks[source].last = time;
      if (op.code == BuiltinOperator::kReshape && operand == 0) {
        output.owner = static_cast<uint8_t>(source);
        output.bytes = 0;
      }
    }
  }
  const uint32_t result = BlockOf(model, blocks, model->output(), count);
  if (result <= count) blocks[result].last = static_cast<uint8_t>(count + 1);
}

/// The lowest place that no block takes which is needed at the same time.
uint32_t LowestPlace(const Block* blocks, uint32_t count, const Block& block) {
  uint32_t offset = 0;
  for (uint32_t i = 0; i < count; ++i) {
    const Block& other = blocks[i];
    const bool meets = other.placed && other.first <= block.last && block.first <= other.last;
    if (meets && other.offset < offset + block.bytes && offset < other.offset + other.bytes) {
      offset = other.offset + other.bytes;
      i = UINT32_MAX;  // from the start
    }
  }
  return offset;
}

}  // namespace

uint32_t ShareMemory(TfliteModel* model, uint8_t* memory, Step* steps, int8_t** input) {
  Block blocks[kMaxOperators + 1];
  const uint32_t count = model->operators();
  FindLifetimes(model, count, blocks);
  uint32_t needed = 0;
  for (uint32_t round = 0; round <= count; ++round) {  // the largest first
    uint32_t largest = 0;
    for (uint32_t i = 1; i <= count; ++i) {
      if (!blocks[i].placed && (blocks[largest].placed || blocks[i].bytes > blocks[largest].bytes)) largest = i;
    }
    Block& block = blocks[largest];
    block.offset = LowestPlace(blocks, count + 1, block);
    block.placed = true;
    const uint32_t end = block.offset + block.bytes;
    needed = end > needed ? end : needed;
  }
  *input = memory == nullptr ? nullptr : reinterpret_cast<int8_t*>(memory + blocks[kInput].offset);
  for (uint32_t i = 0; steps != nullptr && i < count; ++i) {
    steps[i].output = memory == nullptr ? nullptr : memory + blocks[blocks[i + 1].owner].offset;
  }
  return needed;
}

}  // namespace hil::int8
