// Fuzz target: LOAD of a malicious model. Checksum, id and sizes are valid, or deliberately wrong, so that the model itself is
// read; pieces are lost, duplicated and reordered.
//
//   input: how u8 | vectors u8 | n_obs u8 | n_act u8 | piece u8 | disorder u8 | model
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <vector>

#include "board.h"
#include "frame/crc32.h"
#include "fuzz_input.h"
#include "model_id/model_id.h"

namespace {

using hil::fuzz::Board;
using hil::fuzz::Input;
using hil::fuzz::Require;
using namespace hil::protocol;

constexpr uint32_t kTransfer = 7;
constexpr uint32_t kMaxRounds = 400;

// Bits of `how`.
constexpr uint8_t kRightSizes = 1;    // those of the model, if it can be read
constexpr uint8_t kRightVectors = 2;  // what the engine computes
constexpr uint8_t kWrongCrc = 4;
constexpr uint8_t kWrongId = 8;
constexpr uint8_t kTwice = 16;  // upload it again, into the other place
constexpr uint8_t kNormalized = 32;
constexpr uint8_t kWrongNormalization = 64;  // a factor of it is negative

struct Plan {
  std::vector<uint8_t> model;
  std::vector<uint8_t> data;
  LoadBegin begin;  // its id points to `id`
  hil::ModelId id;
  size_t identified = 0;  // bytes of `data` that the id covers
  size_t piece = 1;
  uint8_t disorder = 0;
};

/// Sizes, vectors and outputs as the engine sees them.
void Describe(uint8_t how, Plan* plan) {
  size_t needed = 0;
  const hil::ByteSpan model{plan->model.data(), plan->model.size()};
  std::vector<uint8_t> outputs(size_t{plan->begin.n_self_test} * plan->begin.n_act);
  std::vector<uint8_t> inputs(size_t{plan->begin.n_self_test} * plan->begin.n_obs);
  hil::Int8Engine engine(&hil::int8::kAllKernels);
  if (engine.RequiredArena(model, &needed) == hil::Status::kOk && needed <= Board::kArenaBytes) {
    std::vector<uint8_t> arena(needed + 1);
    Require(engine.Init(model, {arena.data(), needed}) == hil::Status::kOk, "RequiredArena() is right");
    if ((how & kRightSizes) != 0) {
      plan->begin.n_obs = engine.info().n_obs;
      plan->begin.n_act = engine.info().n_act;
      inputs.assign(size_t{plan->begin.n_self_test} * plan->begin.n_obs, 17);
      outputs.assign(size_t{plan->begin.n_self_test} * plan->begin.n_act, 0);
      if ((how & kRightVectors) != 0) {
        for (size_t i = 0; i < plan->begin.n_self_test; ++i) {
          std::vector<int8_t> output(plan->begin.n_act);
          engine.Infer(reinterpret_cast<const int8_t*>(inputs.data()) + i * plan->begin.n_obs, output.data());
          std::memcpy(outputs.data() + i * plan->begin.n_act, output.data(), output.size());
        }
      }
    }
  }
  plan->data = plan->model;
  if ((how & kNormalized) != 0) {
    std::vector<float> numbers(2 * size_t{plan->begin.n_obs} + 1, 0.75f);
    if ((how & kWrongNormalization) != 0) numbers[plan->begin.n_obs] = -1.0f;
    const auto* bytes = reinterpret_cast<const uint8_t*>(numbers.data());
    plan->data.insert(plan->data.end(), bytes, bytes + numbers.size() * sizeof(float));
    plan->begin.normalized = 1;
  }
  plan->identified = plan->data.size();
  plan->data.insert(plan->data.end(), inputs.begin(), inputs.end());
  plan->data.insert(plan->data.end(), outputs.begin(), outputs.end());
}

void MakePlan(uint8_t how, Input* input, Plan* made) {
  Plan& plan = *made;
  plan.begin.transfer = kTransfer;
  plan.begin.n_self_test = input->Byte() % 4;
  plan.begin.n_obs = input->Byte();
  plan.begin.n_act = input->Byte();
  plan.piece = 1 + size_t{input->Byte()} * 3;
  plan.disorder = input->Byte();
  size_t size = 0;
  const uint8_t* model = input->Bytes(input->left(), &size);
  plan.model.assign(model, model + size);
  Describe(how, &plan);
  plan.id = hil::ComputeModelId(plan.data.data(), plan.identified);
  if ((how & kWrongId) != 0 && size > 0) plan.id.text[0] = 'x';
  plan.begin.model_size = static_cast<uint32_t>(size);
  plan.begin.crc = hil::Crc32(plan.data.data(), plan.data.size(), 0) ^ ((how & kWrongCrc) != 0 ? 1u : 0u);
  plan.begin.model_id = hil::StringView::FromC(plan.id.text, sizeof plan.id.text);
}

bool Got(Board* board, MessageType type) { return board->machine().last.type == static_cast<uint8_t>(type); }

/// Sends pieces as a host does, until the board has all of them; `disorder` repeats and skips some.
bool SendPieces(Board* board, const Plan& plan, uint8_t disorder) {
  const size_t piece = plan.piece;
  size_t position = 0;
  for (uint32_t round = 0; round < kMaxRounds && position < plan.data.size(); ++round) {
    size_t at = position;
    if ((disorder >> (round % 8) & 1) != 0) at = round % 2 == 0 ? at + piece : at / 2;
    const size_t left = at < plan.data.size() ? plan.data.size() - at : 0;
    const auto size = static_cast<uint16_t>(left < piece ? left : piece);
    LoadData data{kTransfer, static_cast<uint32_t>(at), hil::ArrayView<uint8_t>(plan.data.data() + (size > 0 ? at : 0), size)};
    board->Send(data);
    if (!Got(board, MessageType::kLoadProgress)) continue;
    LoadProgress progress;
    hil::PayloadReader reader(board->machine().payload.data(), board->machine().payload.size());
    Require(progress.Read(&reader) && progress.received >= position, "progress never decreases");
    position = progress.received;
  }
  return position == plan.data.size();
}

/// Uploads once and checks what runs afterwards.
void UploadOnce(Board* board, const Plan& plan, uint8_t disorder, uint8_t how) {
  const std::vector<int8_t> before = board->Fingerprint();
  const std::vector<char> id_before(board->image().id, board->image().id + hil::kModelIdSize);
  board->Send(Hello{1});
  board->Send(plan.begin);
  const bool begun = Got(board, MessageType::kLoadProgress);
  const bool complete = begun && SendPieces(board, plan, disorder);
  hil::Status status = hil::Status::kVerifying;
  while (status == hil::Status::kVerifying) {
    board->Send(LoadCommit{kTransfer});
    LoadResult result;
    hil::PayloadReader reader(board->machine().payload.data(), board->machine().payload.size());
    const bool answered = Got(board, MessageType::kLoadResult) && result.Read(&reader);
    Require(answered == complete, "only a complete upload gets a result");
    status = answered ? static_cast<hil::Status>(result.status) : hil::Status::kNoUpload;
    Require(board->machine().safe || !complete, "the actuators are in the safe state from the start of the verification");
  }
  const bool runs = status == hil::Status::kOk;
  if (runs) {
    Require((how & (kWrongCrc | kWrongId)) == 0, "no model with a wrong checksum or id becomes active");
    Require((how & kNormalized) == 0 || (how & kWrongNormalization) == 0,
            "no normalization with a negative factor becomes active");
    Require(std::memcmp(board->image().id, plan.id.text, hil::kModelIdSize) == 0, "the active model has the announced id");
    Require(board->board().policy().info().n_act == plan.begin.n_act, "the active model has the announced sizes");
    board->Fingerprint();
    return;
  }
  Require(board->Fingerprint() == before, "a refused model leaves the active one unchanged");
  Require(std::memcmp(board->image().id, id_before.data(), id_before.size()) == 0,
          "a refused model leaves the active id unchanged");
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  Input input(data, size);
  const uint8_t how = input.Byte();
  Plan plan;
  MakePlan(how, &input, &plan);
  Board board;
  UploadOnce(&board, plan, plan.disorder, how);
  if ((how & kTwice) != 0) UploadOnce(&board, plan, 0, how);
  return 0;
}
