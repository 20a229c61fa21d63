// LOAD on the board: receives a model, verifies it, then activates it.
#pragma once

#include <cstddef>
#include <cstdint>

#include "frame/messages.h"
#include "server/models.h"

namespace hil {

/// Size in bytes of the normalization, and of the whole upload: model, normalization, vectors.
size_t NormalizationSize(const protocol::LoadBegin& announced);
uint64_t UploadSize(const protocol::LoadBegin& announced);

/// The announced image in `data`, UploadSize() bytes.
ModelImage UploadedImage(const protocol::LoadBegin& announced, const uint8_t* data, const char* id);

/// One upload at a time, into the standby place. A failed upload leaves the active model unchanged.
///
/// Messages may be lost, duplicated and repeated: LOAD_BEGIN of the open upload, LOAD_DATA already received, and LOAD_COMMIT of
/// the last committed upload change nothing and are answered again.
class Upload {
 public:
  explicit Upload(Models* models) : models_(*models) {}

  /// Returns kOk, kNoUpload (number 0), kNoModel (no bytes), kNoGoldenVectors, kModelInvalid (more inputs or outputs than the
  /// protocol carries, or none), kNoRoom. A refusal leaves an open upload open.
  Outcome Begin(const protocol::LoadBegin& request);

  /// Returns kOk, kNoUpload, kWrongOffset, kOversized (more than was announced).
  Outcome Receive(const protocol::LoadData& request);

  /// Fills `result` when the upload is complete: its status is kOk and the model is active, or the reason of the refusal:
  /// kUploadDamaged, kVectorsDiffer, or that of Policy::Load(). Then the upload is no longer open.
  ///
  /// Returns kOk, kNoUpload, kUploadIncomplete.
  Outcome Commit(const protocol::LoadCommit& request, protocol::LoadResult* result);

  /// Discards the open upload. Has no effect on another transfer number.
  void Abort(const protocol::LoadAbort& request);

  uint32_t received() const { return received_; }

 private:
  Outcome Try();
  bool IsOpen(uint32_t transfer) const { return transfer != 0 && transfer == transfer_; }
  bool IsSame(const protocol::LoadBegin& other) const;

  Models& models_;
  uint32_t transfer_ = 0;          // of the open upload; 0: none is
  protocol::LoadBegin announced_;  // except its id, which lies in the frame
  ModelId id_;
  uint32_t total_ = 0;
  uint32_t received_ = 0;
  uint32_t finished_transfer_ = 0;  // of the last committed upload
  Outcome finished_;
  const char* finished_message_ = "";
};

}  // namespace hil
