#include "server/upload.h"

#include <cstring>

#include "frame/crc32.h"

namespace hil {
namespace {

constexpr size_t kMessageLimit = 240;
constexpr uint32_t kPiece = 1024;  // bytes hashed in one step: a fraction of a millisecond
static_assert(kPiece % ModelHash::kBlock == 0);

}  // namespace

Outcome Upload::Begin(const protocol::LoadBegin& request) {
  if (verifying()) return Busy();
  if (request.transfer == 0) return {Status::kNoUpload, transfer_};
  if (request.model_size == 0) return {Status::kNoModel, 0};
  if (request.n_self_test == 0) return {Status::kNoGoldenVectors, 0};
  const auto type = static_cast<ElementType>(request.element_type);
  if (type > (kWide ? ElementType::kFloat32 : ElementType::kInt8)) return {Status::kModelNotInt8, request.element_type};
  const uint32_t width = WidthOf(type);
  if (request.n_obs == 0 || request.n_obs > kMaxObs / width || request.n_act == 0 || request.n_act > kMaxAct / width ||
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
  if (verifying()) return Busy();
  if (!IsOpen(request.transfer)) return {Status::kNoUpload, transfer_};
  const size_t size = request.data.size();
  if (request.offset > total_ || size > total_ - request.offset) return {Status::kOversized, total_};
  if (request.offset + size <= received_) return {};
  if (request.offset != received_) return {Status::kWrongOffset, received_};
  std::memcpy(models_.standby().memory + received_, request.data.bytes(), size);
  received_ += static_cast<uint32_t>(size);
  return {};
}

Outcome Upload::Commit(const protocol::LoadCommit& request) {
  if (request.transfer != 0 && request.transfer == finished_transfer_) return {};
  if (!IsOpen(request.transfer)) return {Status::kNoUpload, transfer_};
  if (received_ < total_) return {Status::kUploadIncomplete, received_};
  if (verifying()) return {};
  finished_message_ = "";
  crc_ = 0;
  hash_ = {};
  return Enter(Stage::kChecksum);
}

void Upload::Verify() {
  const Outcome outcome = Step();
  if (outcome.ok() && verifying()) return;
  if (outcome.ok()) models_.Activate();
  finished_ = outcome.status == Status::kSelfTestFailed ? Outcome{Status::kVectorsDiffer, outcome.detail} : outcome;
  finished_transfer_ = transfer_;
  Close();
}

/// Returns the reason of a refusal. After the last step, no stage is left.
Outcome Upload::Step() {
  const uint8_t* const data = models_.standby().memory;
  if (stage_ == Stage::kChecksum) {
    const uint32_t size = total_ - done_ < kPiece ? total_ - done_ : kPiece;
    crc_ = Crc32(data + done_, size, crc_);
    done_ += size;
    if (done_ < total_) return {};
    return crc_ == announced_.crc ? Enter(Stage::kIdentity) : Outcome{Status::kUploadDamaged, crc_};
  }
  if (stage_ == Stage::kIdentity) {
    const size_t left = size_t{announced_.model_size} + NormalizationSize(announced_) - done_;
    if (left > kPiece) {
      hash_.Add(data + done_, kPiece);
      done_ += kPiece;
      return {};
    }
    const ModelId id = hash_.Finish(data + done_, left);
    return std::strcmp(id.text, id_.text) == 0 ? Enter(Stage::kLoad) : Outcome{Status::kOtherModel, 0};
  }
  Policy& policy = models_.standby_policy();
  Outcome outcome;
  if (stage_ == Stage::kLoad) {
    outcome = models_.LoadStandby(UploadedImage(announced_, data, id_.text));
    mismatches_ = {};
    Enter(Stage::kVectors);
  } else {
    outcome = policy.Replay(static_cast<uint16_t>(done_++), &mismatches_);
    if (outcome.ok() && done_ < announced_.n_self_test) return {};
    outcome = policy.Verify(outcome, mismatches_);
    stage_ = Stage::kNone;
  }
  finished_message_ = policy.message();
  return outcome;
}

Outcome Upload::Enter(Stage stage) {
  stage_ = stage;
  done_ = 0;
  return {};
}

Outcome Upload::Busy() const { return {Status::kVerifying, announced_.n_self_test - (stage_ == Stage::kVectors ? done_ : 0)}; }

protocol::LoadResult Upload::Result(uint32_t transfer) const {
  const Outcome outcome = verifying() ? Busy() : finished_;
  const StringView message = StringView::FromC(finished_message_, kMessageLimit);
  return {transfer, static_cast<uint8_t>(outcome.status), outcome.detail, message};
}

void Upload::Abort(const protocol::LoadAbort& request) {
  if (IsOpen(request.transfer)) Close();
}

void Upload::Close() {
  transfer_ = 0;
  received_ = 0;
  stage_ = Stage::kNone;
}

bool Upload::IsSame(const protocol::LoadBegin& other) const {
  return announced_.model_size == other.model_size && announced_.normalized == other.normalized &&
         announced_.n_self_test == other.n_self_test && announced_.element_type == other.element_type &&
         announced_.n_obs == other.n_obs && announced_.n_act == other.n_act && announced_.crc == other.crc &&
         std::memcmp(id_.text, other.model_id.data, kModelIdSize) == 0;
}

size_t NormalizationSize(const protocol::LoadBegin& announced) {
  return announced.normalized == 0 ? 0 : (2 * size_t{announced.n_obs} + 1) * sizeof(float);
}

uint64_t UploadSize(const protocol::LoadBegin& announced) {
  const uint32_t width = WidthOf(static_cast<ElementType>(announced.element_type));
  const uint64_t vectors = uint64_t{announced.n_self_test} * (uint64_t{announced.n_obs} + announced.n_act) * width;
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
  image.type = static_cast<ElementType>(announced.element_type);
  if (announced.normalized != 0) {
    const size_t bytes = announced.n_obs * sizeof(float);
    image.normalization.mean = ArrayView<float>::FromBytes(numbers, announced.n_obs);
    image.normalization.inverse_std = ArrayView<float>::FromBytes(numbers + bytes, announced.n_obs);
    std::memcpy(&image.normalization.clip, numbers + 2 * bytes, sizeof(float));
  }
  image.golden = {inputs, inputs + size_t{announced.n_self_test} * announced.n_obs * WidthOf(image.type), announced.n_self_test};
  return image;
}

}  // namespace hil
