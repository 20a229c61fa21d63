// What a request, or a function that can fail, returns.
// Generated from schema.toml by `python -m balance_hil.protocol.generate`: do not edit.
// clang-format off
#pragma once

#include <cstdint>

namespace hil {

/// Result of a request, and of every function that can fail.
enum class Status : uint8_t {
  kOk = 0,  ///< done
  kNotIdentified = 1,  ///< the request came before a HELLO was answered
  kUnknownType = 2,  ///< no request has this type; detail: the type
  kWrongLength = 3,  ///< the payload does not have the layout of its type; detail: its length in bytes
  kWrongCount = 4,  ///< an array or line has the wrong number of elements; detail: how many the model takes
  kNonFinite = 5,  ///< an observation holds a NaN or an infinity; detail: its index
  kOversized = 6,  ///< the frame, line or reply is longer than the limit; detail: the limit in bytes
  kNoSuchOperator = 7,  ///< the model has fewer operators; detail: how many it has
  kNoInferenceYet = 8,  ///< a tensor was asked for before any inference
  kNoGoldenVectors = 9,  ///< a self-test was asked for and the image holds no vectors; or an upload carries none
  kMalformedLine = 10,  ///< a text line is not comma-separated numbers
  kNotSupported = 11,  ///< this engine or board cannot do that; detail: the engine's own code
  kNoModel = 12,  ///< no model was given to the board
  kModelInvalid = 13,  ///< the model is not a readable .tflite, or not of one input and one output
  kModelNotInt8 = 14,  ///< the model's input or output is of an element type that the engine or the image does not run
  kUnsupportedOperator = 15,  ///< the engine cannot run an operator of the model; INFO's engine_message names it
  kArenaTooSmall = 16,  ///< the tensor arena is too small; detail: bytes needed (0 = unknown)
  kInferenceFailed = 17,  ///< the engine reported an error; detail: its own code
  kEngineLost = 18,  ///< the process that runs the engine is gone
  kSelfTestFailed = 19,  ///< at start-up the engine did not reproduce the golden vectors; detail: how many it got wrong
  kNoRoom = 20,  ///< the upload is larger than the memory that the board has for it; detail: bytes there are (0: it takes no uploads)
  kNoUpload = 21,  ///< no upload of this number is open; detail: number of the one that is (0 = none)
  kWrongOffset = 22,  ///< the piece does not continue what was received; detail: the offset to go on from, or the tensor's size
  kUploadIncomplete = 23,  ///< pieces of the upload are missing; detail: bytes received
  kUploadDamaged = 24,  ///< what was received, an upload or an input in pieces, has another CRC than announced; detail: its CRC
  kOtherModel = 25,  ///< the model received has another id, or other sizes, than announced; detail: its inputs << 16 | outputs
  kVectorsDiffer = 26,  ///< the engine does not reproduce the vectors that came with the upload; detail: how many it got wrong
  kLineDamaged = 27,  ///< the checksum of a text line is wrong
  kTextLineOff = 28,  ///< text lines are switched off
  kVerifying = 29,  ///< an upload is being verified: observations and other uploads are refused meanwhile; detail: vectors not replayed yet
};

/// The status as it is spelled in schema.toml.
constexpr const char* StatusName(Status status) {
  switch (status) {
    case Status::kOk:
      return "ok";
    case Status::kNotIdentified:
      return "not_identified";
    case Status::kUnknownType:
      return "unknown_type";
    case Status::kWrongLength:
      return "wrong_length";
    case Status::kWrongCount:
      return "wrong_count";
    case Status::kNonFinite:
      return "non_finite";
    case Status::kOversized:
      return "oversized";
    case Status::kNoSuchOperator:
      return "no_such_operator";
    case Status::kNoInferenceYet:
      return "no_inference_yet";
    case Status::kNoGoldenVectors:
      return "no_golden_vectors";
    case Status::kMalformedLine:
      return "malformed_line";
    case Status::kNotSupported:
      return "not_supported";
    case Status::kNoModel:
      return "no_model";
    case Status::kModelInvalid:
      return "model_invalid";
    case Status::kModelNotInt8:
      return "model_not_int8";
    case Status::kUnsupportedOperator:
      return "unsupported_operator";
    case Status::kArenaTooSmall:
      return "arena_too_small";
    case Status::kInferenceFailed:
      return "inference_failed";
    case Status::kEngineLost:
      return "engine_lost";
    case Status::kSelfTestFailed:
      return "self_test_failed";
    case Status::kNoRoom:
      return "no_room";
    case Status::kNoUpload:
      return "no_upload";
    case Status::kWrongOffset:
      return "wrong_offset";
    case Status::kUploadIncomplete:
      return "upload_incomplete";
    case Status::kUploadDamaged:
      return "upload_damaged";
    case Status::kOtherModel:
      return "other_model";
    case Status::kVectorsDiffer:
      return "vectors_differ";
    case Status::kLineDamaged:
      return "line_damaged";
    case Status::kTextLineOff:
      return "text_line_off";
    case Status::kVerifying:
      return "verifying";
  }
  return "unknown";
}

}  // namespace hil
