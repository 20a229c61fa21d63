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
  const uint64_t total = UploadSize(request);
  const size_t capacity = models_.upload_capacity();
  if (total > capacity) return {Status::kNoRoom, static_cast<uint32_t>(capacity)};
  if (IsOpen(request.transfer) && IsSame(request)) return {};
  transfer_ = request.transfer;
  announced_ = request;
  std::memcpy(id_.text, request.model_id.data, kModelIdSize);
  total_ = static_cast<uint32_t>(total);
  received_ = 0;
  finished_transfer_ = 0;
  return {};
}

Outcome Upload::Receive(const protocol::LoadData& request) {
  if (!IsOpen(request.transfer)) return {Status::kNoUpload, transfer_};
  const size_t size = request.data.size();
  if (request.offset > total_ || size > total_ - request.offset) return {Status::kOversized, total_};
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
    if (received_ < total_) return {Status::kUploadIncomplete, received_};
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
  const uint8_t* data = models_.standby().memory;
  const uint32_t crc = Crc32(data, total_, 0);
  if (crc != announced_.crc) return {Status::kUploadDamaged, crc};
  const ModelImage image = UploadedImage(announced_, data, id_.text);
  const ModelId id = ComputeModelId(data, size_t{announced_.model_size} + NormalizationSize(announced_));
  if (std::strcmp(id.text, id_.text) != 0) return {Status::kOtherModel, 0};
  const Outcome loaded = models_.TakeOver(image, &finished_message_);
  return loaded.status == Status::kSelfTestFailed ? Outcome{Status::kVectorsDiffer, loaded.detail} : loaded;
}

bool Upload::IsSame(const protocol::LoadBegin& other) const {
  return announced_.model_size == other.model_size && announced_.normalized == other.normalized &&
         announced_.n_self_test == other.n_self_test && announced_.n_obs == other.n_obs && announced_.n_act == other.n_act &&
         announced_.crc == other.crc && std::memcmp(id_.text, other.model_id.data, kModelIdSize) == 0;
}

size_t NormalizationSize(const protocol::LoadBegin& announced) {
  return announced.normalized == 0 ? 0 : (2 * size_t{announced.n_obs} + 1) * sizeof(float);
}

uint64_t UploadSize(const protocol::LoadBegin& announced) {
  const uint64_t vectors = uint64_t{announced.n_self_test} * (uint64_t{announced.n_obs} + announced.n_act);
  return announced.model_size + NormalizationSize(announced) + vectors;
}

ModelImage UploadedImage(const protocol::LoadBegin& announced, const uint8_t* data, const char* id) {
  const uint8_t* const numbers = data + announced.model_size;
  const auto* inputs = reinterpret_cast<const int8_t*>(numbers + NormalizationSize(announced));
  ModelImage image;
  image.model = {data, announced.model_size};
  image.id = id;
  image.n_obs = announced.n_obs;
  image.n_act = announced.n_act;
  if (announced.normalized != 0) {
    const size_t bytes = announced.n_obs * sizeof(float);
    image.normalization.mean = ArrayView<float>::FromBytes(numbers, announced.n_obs);
    image.normalization.inverse_std = ArrayView<float>::FromBytes(numbers + bytes, announced.n_obs);
    std::memcpy(&image.normalization.clip, numbers + 2 * bytes, sizeof(float));
  }
  image.golden = {inputs, inputs + size_t{announced.n_self_test} * announced.n_obs, announced.n_self_test};
  return image;
}

}  // namespace hil
