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
///
/// The verification runs in steps between other requests; meanwhile Begin() and Receive() return kVerifying.
class Upload {
 public:
  explicit Upload(Models* models) : models_(*models) {}

  /// Returns kOk, kNoUpload (number 0), kNoModel (no bytes), kNoGoldenVectors, kModelNotInt8 (an element type that
  /// the image does not run), kModelInvalid (more inputs or outputs than the protocol carries, or none), kNoRoom. A refusal
  /// leaves an open upload open.
  Outcome Begin(const protocol::LoadBegin& request);

  /// Returns kOk, kNoUpload, kWrongOffset, kOversized (more than was announced).
  Outcome Receive(const protocol::LoadData& request);

  /// Starts the verification of a complete upload. Returns kOk, kNoUpload, kUploadIncomplete.
  Outcome Commit(const protocol::LoadCommit& request);

  /// One step of the verification: a kilobyte, the load, or one vector. After the last one the upload is no longer open.
  void Verify();

  bool verifying() const { return stage_ != Stage::kNone; }

  /// kVerifying with the number of vectors not replayed yet.
  Outcome Busy() const;

  /// What Commit() led to: kVerifying; kOk, and the model is active; or kUploadDamaged, kVectorsDiffer, or the status of
  /// Policy::Load().
  protocol::LoadResult Result(uint32_t transfer) const;

  /// Discards the open upload. Has no effect on another transfer number.
  void Abort(const protocol::LoadAbort& request);

  uint32_t received() const { return received_; }

 private:
  enum class Stage : uint8_t { kNone, kChecksum, kIdentity, kLoad, kVectors };

  Outcome Step();
  Outcome Enter(Stage stage);
  void Close();
  bool IsOpen(uint32_t transfer) const { return transfer != 0 && transfer == transfer_; }
  bool IsSame(const protocol::LoadBegin& other) const;

  Models& models_;
  uint32_t transfer_ = 0;          // of the open upload; 0: none is
  protocol::LoadBegin announced_;  // except its id, which lies in the frame
  ModelId id_;
  uint32_t total_ = 0;
  uint32_t received_ = 0;
  Stage stage_ = Stage::kNone;
  uint32_t done_ = 0;  // bytes or vectors of this stage
  uint32_t crc_ = 0;
  ModelHash hash_;
  Policy::SelfTestCount mismatches_;
  uint32_t finished_transfer_ = 0;  // of the last committed upload
  Outcome finished_;
  const char* finished_message_ = "";
};

}  // namespace hil
