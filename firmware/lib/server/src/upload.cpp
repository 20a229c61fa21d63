#include "server/upload.h"

#include <cstring>

#include "frame/crc32.h"

namespace hil {
namespace {

constexpr size_t kMessageLimit = 240;

}  // namespace

Outcome Upload::Begin(const protocol::LoadBegin& request) {
  if (request.transfer == 0) return {Status::kNoUpload, transfer_};
  if (request.model_size == 0) return {Status::kNoModel, 0};
  if (request.n_self_test == 0) return {Status::kNoGoldenVectors, 0};
  if (request.n_obs == 0 || request.n_obs > kMaxObs || request.n_act == 0 || request.n_act > kMaxAct ||
      request.model_id.size != kModelIdSize)
    return {Status::kModelInvalid, 0};
  const uint64_t vectors = uint64_t{request.n_self_test} * (uint64_t{request.n_obs} + request.n_act);
  const uint64_t total = request.model_size + vectors;
  const size_t capacity = models_.upload_capacity();
  if (total > capacity) return {Status::kNoRoom, static_cast<uint32_t>(capacity)};

  Announced announced;
  announced.model_size = request.model_size;
  announced.total = static_cast<uint32_t>(total);
  announced.n_self_test = request.n_self_test;
  announced.n_obs = request.n_obs;
  announced.n_act = request.n_act;
  announced.crc = request.crc;
  std::memcpy(announced.id.text, request.model_id.data, kModelIdSize);
  if (IsOpen(request.transfer) && IsSame(announced)) return {};
  transfer_ = request.transfer;
  announced_ = announced;
  received_ = 0;
  finished_transfer_ = 0;
  return {};
}

Outcome Upload::Receive(const protocol::LoadData& request) {
  if (!IsOpen(request.transfer)) return {Status::kNoUpload, transfer_};
  const size_t size = request.data.size();
  if (request.offset > announced_.total || size > announced_.total - request.offset)
    return {Status::kOversized, announced_.total};
  if (request.offset + size <= received_) return {};
  if (request.offset != received_) return {Status::kWrongOffset, received_};
  std::memcpy(models_.standby().memory + received_, request.data.bytes(), size);
  received_ += static_cast<uint32_t>(size);
  return {};
}

Outcome Upload::Commit(const protocol::LoadCommit& request, protocol::LoadResult* result) {
  const bool repeated = request.transfer != 0 && request.transfer == finished_transfer_;
  if (!repeated) {
    if (!IsOpen(request.transfer)) return {Status::kNoUpload, transfer_};
    if (received_ < announced_.total) return {Status::kUploadIncomplete, received_};
    finished_message_ = "";
    finished_ = Try();
    finished_transfer_ = transfer_;
    transfer_ = 0;
    received_ = 0;
  }
  result->transfer = request.transfer;
  result->status = static_cast<uint8_t>(finished_.status);
  result->detail = finished_.detail;
  result->message = StringView::FromC(finished_message_, kMessageLimit);
  return {};
}

void Upload::Abort(const protocol::LoadAbort& request) {
  if (!IsOpen(request.transfer)) return;
  transfer_ = 0;
  received_ = 0;
}

Outcome Upload::Try() {
  const ModelSlot& slot = models_.standby();
  const uint32_t crc = Crc32(slot.memory, announced_.total, 0);
  if (crc != announced_.crc) return {Status::kUploadDamaged, crc};

  Inference& candidate = *slot.inference;
  const Outcome loaded = candidate.Load({slot.memory, announced_.model_size}, slot.arena);
  if (!loaded.ok()) {
    finished_message_ = candidate.message();
    return loaded;
  }
  const EngineInfo& info = candidate.info();
  const ModelId id = ComputeModelId(slot.memory, announced_.model_size);
  if (info.n_obs != announced_.n_obs || info.n_act != announced_.n_act || std::strcmp(id.text, announced_.id.text) != 0)
    return {Status::kOtherModel, uint32_t{info.n_obs} << 16 | info.n_act};

  const auto* inputs = reinterpret_cast<const int8_t*>(slot.memory + announced_.model_size);
  const GoldenVectors golden{inputs, inputs + size_t{announced_.n_self_test} * announced_.n_obs, announced_.n_self_test};
  const Outcome verified = candidate.Verify(golden);
  if (!verified.ok()) {
    finished_message_ = candidate.message();
    return verified.status == Status::kSelfTestFailed ? Outcome{Status::kVectorsDiffer, verified.detail} : verified;
  }
  models_.Swap(id, golden);
  swapped_ = true;
  return {};
}

bool Upload::IsSame(const Announced& other) const {
  return announced_.model_size == other.model_size && announced_.n_self_test == other.n_self_test &&
         announced_.n_obs == other.n_obs && announced_.n_act == other.n_act && announced_.crc == other.crc &&
         std::strcmp(announced_.id.text, other.id.text) == 0;
}

}  // namespace hil
