// Messages of the wire protocol.
// Generated from schema.toml by `python -m balance_hil.protocol.generate`: do not edit.
// clang-format off
#pragma once

#include <cstdint>

#include "frame/payload.h"
#include "status/status.h"

namespace hil::protocol {

inline constexpr uint32_t kVersion = 5;
inline constexpr uint32_t kMaxPayload = 1024;
inline constexpr uint32_t kMaxText = 4352;
inline constexpr uint32_t kPartialFrameTimeoutMs = 250;
inline constexpr uint32_t kWatchdogMs = 100;
inline constexpr uint32_t kActionTensor = 65533;
inline constexpr uint32_t kInputTensor = 65534;
inline constexpr uint32_t kOutputTensor = 65535;
inline constexpr uint32_t kSchemaCrc = 0xF97DB9A0u;

enum class MessageType : uint8_t {
  kHello = 0x80,  ///< host: requests INFO; opens the session
  kInfer = 0x81,  ///< host: normalize, quantize, infer, dequantize
  kInferInt8 = 0x82,  ///< host: infer from a raw input
  kTensor = 0x83,  ///< host: requests the output of one operator in the last inference, from an offset
  kInputData = 0x90,  ///< host: fills a part of the model's input; answered by what lies there
  kObservationData = 0x91,  ///< host: the same, normalized and quantized from a part of an observation
  kInferStored = 0x92,  ///< host: infers from the input that was sent in pieces, and dequantizes
  kSelfTest = 0x84,  ///< host: replays the golden vectors in the image
  kProfile = 0x8F,  ///< host: safe state; times one inference and each of its parts, for about 20 ms
  kStatsRequest = 0x85,  ///< host: requests the counters
  kSetWatchdog = 0x86,  ///< host: sets the time without an observation after which the board enters the safe state
  kSetTextLine = 0x8D,  ///< host: enables or disables text lines
  kEcho = 0x87,  ///< host: measures the link
  kReset = 0x88,  ///< host: reboots the board
  kEnterBootloader = 0x8E,  ///< host: leaves the firmware for the boot loader of the chip; answered only by ERROR, where there is none
  kLoadBegin = 0x89,  ///< host: announces a model and its vectors; repeated, it requests the progress
  kLoadData = 0x8A,  ///< host: one chunk of the upload; a chunk already received is acknowledged again
  kLoadCommit = 0x8B,  ///< host: safe state, verification, activation; repeated: progress, then result
  kLoadAbort = 0x8C,  ///< host: discards the upload
  kReady = 0xC0,  ///< board: sent once after every boot, with sequence number 0
  kInfo = 0xC1,  ///< board: identity of the board, its firmware, engine and model
  kAction = 0xC2,  ///< board: result of one inference
  kTensorData = 0xC3,  ///< board: output of one operator, or as much of it as a frame holds
  kInferred = 0xCD,  ///< board: an inference is done; TENSOR reads its output
  kSelfTestResult = 0xC4,  ///< board: result of the self-test
  kProfileResult = 0xCC,  ///< board: mean times of an inference and of its parts, by the board's clock
  kStats = 0xC5,  ///< board: counters since boot
  kWatchdog = 0xC6,  ///< board: watchdog timeout in force
  kTextLine = 0xCB,  ///< board: whether text lines are enabled
  kEchoReply = 0xC7,  ///< board: the data of the ECHO
  kLoadProgress = 0xC9,  ///< board: progress of the upload
  kLoadResult = 0xCA,  ///< board: result of LOAD_COMMIT; after ok, a new HELLO is required
  kError = 0xC8,  ///< board: the request was refused
};

/// True for messages whose CRC is not seeded with the schema.
constexpr bool IsHandshake(uint8_t type) {
  return type == 0x80 ||
         type == 0xC0 ||
         type == 0xC1;
}

/// True for requests that are refused until a HELLO has been answered.
template <bool kPieces>
constexpr bool IsGated(uint8_t type) {
  if (kPieces && (type == 0x90 ||
         type == 0x91 ||
         type == 0x92)) return true;
  return type == 0x81 ||
         type == 0x82 ||
         type == 0x83 ||
         type == 0x84 ||
         type == 0x8F ||
         type == 0x86 ||
         type == 0x8D ||
         type == 0x8E ||
         type == 0x89 ||
         type == 0x8A ||
         type == 0x8C;
}

/// Requests INFO; opens the session.
struct Hello {
  static constexpr MessageType kType = MessageType::kHello;
  uint32_t nonce{};  ///< returned in INFO: identifies the session that the reply belongs to

  /// False when the payload does not have this layout.
  bool Read(PayloadReader* reader) {
    return reader->Read(&nonce) && reader->AtEnd();
  }
  void Write(PayloadWriter* writer) const {
    writer->Write(nonce);
  }
};

/// Normalize, quantize, infer, dequantize.
struct Infer {
  static constexpr MessageType kType = MessageType::kInfer;
  ArrayView<float> observation{};  ///< [n_obs], as the environment gives it

  /// False when the payload does not have this layout.
  bool Read(PayloadReader* reader) {
    return reader->Read(&observation) && reader->AtEnd();
  }
  void Write(PayloadWriter* writer) const {
    writer->Write(observation);
  }
};

/// Infer from a raw input.
struct InferInt8 {
  static constexpr MessageType kType = MessageType::kInferInt8;
  ArrayView<int8_t> input{};  ///< bytes of [n_obs] raw values, of the element type in INFO

  /// False when the payload does not have this layout.
  bool Read(PayloadReader* reader) {
    return reader->Read(&input) && reader->AtEnd();
  }
  void Write(PayloadWriter* writer) const {
    writer->Write(input);
  }
};

/// Requests the output of one operator in the last inference, from an offset.
struct Tensor {
  static constexpr MessageType kType = MessageType::kTensor;
  uint16_t op{};  ///< operator index in execution order
  uint32_t offset{};  ///< B; first byte wanted

  /// False when the payload does not have this layout.
  bool Read(PayloadReader* reader) {
    return reader->Read(&op) && reader->Read(&offset) && reader->AtEnd();
  }
  void Write(PayloadWriter* writer) const {
    writer->Write(op);
    writer->Write(offset);
  }
};

/// Fills a part of the model's input; answered by what lies there.
struct InputData {
  static constexpr MessageType kType = MessageType::kInputData;
  uint32_t offset{};  ///< B; of the first byte
  ArrayView<int8_t> values{};  ///< bytes of raw values

  /// False when the payload does not have this layout.
  bool Read(PayloadReader* reader) {
    return reader->Read(&offset) && reader->Read(&values) && reader->AtEnd();
  }
  void Write(PayloadWriter* writer) const {
    writer->Write(offset);
    writer->Write(values);
  }
};

/// The same, normalized and quantized from a part of an observation.
struct ObservationData {
  static constexpr MessageType kType = MessageType::kObservationData;
  uint32_t offset{};  ///< of the first value
  ArrayView<float> values{};  ///< as the environment gives them

  /// False when the payload does not have this layout.
  bool Read(PayloadReader* reader) {
    return reader->Read(&offset) && reader->Read(&values) && reader->AtEnd();
  }
  void Write(PayloadWriter* writer) const {
    writer->Write(offset);
    writer->Write(values);
  }
};

/// Infers from the input that was sent in pieces, and dequantizes.
struct InferStored {
  static constexpr MessageType kType = MessageType::kInferStored;
  uint32_t input_crc{};  ///< CRC-32 (zlib) of the whole input, raw values [n_obs]: with another one nothing is inferred

  /// False when the payload does not have this layout.
  bool Read(PayloadReader* reader) {
    return reader->Read(&input_crc) && reader->AtEnd();
  }
  void Write(PayloadWriter* writer) const {
    writer->Write(input_crc);
  }
};

/// Replays the golden vectors in the image.
struct SelfTest {
  static constexpr MessageType kType = MessageType::kSelfTest;

  /// False when the payload does not have this layout.
  bool Read(PayloadReader* reader) {
    return reader->AtEnd();
  }
  void Write(PayloadWriter*) const {
  }
};

/// Safe state; times one inference and each of its parts, for about 20 ms.
struct Profile {
  static constexpr MessageType kType = MessageType::kProfile;
  ArrayView<float> observation{};  ///< [n_obs], as the environment gives it; empty on a board that takes pieces: the input that it has

  /// False when the payload does not have this layout.
  bool Read(PayloadReader* reader) {
    return reader->Read(&observation) && reader->AtEnd();
  }
  void Write(PayloadWriter* writer) const {
    writer->Write(observation);
  }
};

/// Requests the counters.
struct StatsRequest {
  static constexpr MessageType kType = MessageType::kStatsRequest;

  /// False when the payload does not have this layout.
  bool Read(PayloadReader* reader) {
    return reader->AtEnd();
  }
  void Write(PayloadWriter*) const {
  }
};

/// Sets the time without an observation after which the board enters the safe state.
struct SetWatchdog {
  static constexpr MessageType kType = MessageType::kSetWatchdog;
  uint32_t timeout_ms{};  ///< ms; 0 disables the watchdog; reset at the end of the session

  /// False when the payload does not have this layout.
  bool Read(PayloadReader* reader) {
    return reader->Read(&timeout_ms) && reader->AtEnd();
  }
  void Write(PayloadWriter* writer) const {
    writer->Write(timeout_ms);
  }
};

/// Enables or disables text lines.
struct SetTextLine {
  static constexpr MessageType kType = MessageType::kSetTextLine;
  uint8_t enabled{};  ///< 0 disables text lines; reset at the end of the session

  /// False when the payload does not have this layout.
  bool Read(PayloadReader* reader) {
    return reader->Read(&enabled) && reader->AtEnd();
  }
  void Write(PayloadWriter* writer) const {
    writer->Write(enabled);
  }
};

/// Measures the link.
struct Echo {
  static constexpr MessageType kType = MessageType::kEcho;
  ArrayView<uint8_t> data{};  ///< at most max_payload - 2 bytes

  /// False when the payload does not have this layout.
  bool Read(PayloadReader* reader) {
    return reader->Read(&data) && reader->AtEnd();
  }
  void Write(PayloadWriter* writer) const {
    writer->Write(data);
  }
};

/// Reboots the board.
struct Reset {
  static constexpr MessageType kType = MessageType::kReset;

  /// False when the payload does not have this layout.
  bool Read(PayloadReader* reader) {
    return reader->AtEnd();
  }
  void Write(PayloadWriter*) const {
  }
};

/// Leaves the firmware for the boot loader of the chip; answered only by ERROR, where there is none.
struct EnterBootloader {
  static constexpr MessageType kType = MessageType::kEnterBootloader;

  /// False when the payload does not have this layout.
  bool Read(PayloadReader* reader) {
    return reader->AtEnd();
  }
  void Write(PayloadWriter*) const {
  }
};

/// Announces a model and its vectors; repeated, it requests the progress.
struct LoadBegin {
  static constexpr MessageType kType = MessageType::kLoadBegin;
  uint32_t transfer{};  ///< not 0
  uint32_t model_size{};  ///< B; bytes of the .tflite
  uint8_t normalized{};  ///< 1: f32 mean [n_obs], inverse_std [n_obs] and clip lie between model and vectors
  uint16_t n_self_test{};  ///< number of golden vectors, at least 1
  uint32_t n_obs{};  ///< elements of the model's input
  uint32_t n_act{};  ///< elements of the model's output
  uint32_t crc{};  ///< CRC-32 (zlib) of the upload: model, normalization, raw inputs [n_self_test, n_obs], raw outputs
  StringView model_id{};  ///< first 12 hex digits of the SHA-256 of model and normalization
  uint8_t element_type{};  ///< of raw values: 0 int8, 1 int16 (int16x8), 2 float32

  /// False when the payload does not have this layout.
  bool Read(PayloadReader* reader) {
    return reader->Read(&transfer) && reader->Read(&model_size) && reader->Read(&normalized) && reader->Read(&n_self_test) && reader->Read(&n_obs) && reader->Read(&n_act) && reader->Read(&crc) && reader->Read(&model_id) && reader->Read(&element_type) && reader->AtEnd();
  }
  void Write(PayloadWriter* writer) const {
    writer->Write(transfer);
    writer->Write(model_size);
    writer->Write(normalized);
    writer->Write(n_self_test);
    writer->Write(n_obs);
    writer->Write(n_act);
    writer->Write(crc);
    writer->Write(model_id);
    writer->Write(element_type);
  }
};

/// One chunk of the upload; a chunk already received is acknowledged again.
struct LoadData {
  static constexpr MessageType kType = MessageType::kLoadData;
  uint32_t transfer{};
  uint32_t offset{};  ///< B; from the start of the upload
  ArrayView<uint8_t> data{};

  /// False when the payload does not have this layout.
  bool Read(PayloadReader* reader) {
    return reader->Read(&transfer) && reader->Read(&offset) && reader->Read(&data) && reader->AtEnd();
  }
  void Write(PayloadWriter* writer) const {
    writer->Write(transfer);
    writer->Write(offset);
    writer->Write(data);
  }
};

/// Safe state, verification, activation; repeated: progress, then result.
struct LoadCommit {
  static constexpr MessageType kType = MessageType::kLoadCommit;
  uint32_t transfer{};

  /// False when the payload does not have this layout.
  bool Read(PayloadReader* reader) {
    return reader->Read(&transfer) && reader->AtEnd();
  }
  void Write(PayloadWriter* writer) const {
    writer->Write(transfer);
  }
};

/// Discards the upload.
struct LoadAbort {
  static constexpr MessageType kType = MessageType::kLoadAbort;
  uint32_t transfer{};

  /// False when the payload does not have this layout.
  bool Read(PayloadReader* reader) {
    return reader->Read(&transfer) && reader->AtEnd();
  }
  void Write(PayloadWriter* writer) const {
    writer->Write(transfer);
  }
};

/// Sent once after every boot, with sequence number 0.
struct Ready {
  static constexpr MessageType kType = MessageType::kReady;
  uint16_t protocol{};  ///< protocol version
  uint32_t schema_crc{};  ///< CRC of the canonical schema text
  uint8_t reset_cause{};  ///< 0 power on, 1 requested by RESET, 2 hardware watchdog, 255 unknown

  /// False when the payload does not have this layout.
  bool Read(PayloadReader* reader) {
    return reader->Read(&protocol) && reader->Read(&schema_crc) && reader->Read(&reset_cause) && reader->AtEnd();
  }
  void Write(PayloadWriter* writer) const {
    writer->Write(protocol);
    writer->Write(schema_crc);
    writer->Write(reset_cause);
  }
};

/// Identity of the board, its firmware, engine and model.
struct Info {
  static constexpr MessageType kType = MessageType::kInfo;
  uint16_t protocol{};  ///< protocol version
  uint32_t schema_crc{};  ///< CRC of the canonical schema text
  uint32_t nonce{};  ///< nonce of the HELLO
  StringView firmware_commit{};  ///< git commit that the firmware was built from, 12 hex digits; + appended: with local changes
  StringView board{};  ///< name of the board
  StringView processor{};  ///< instruction set or core
  StringView engine{};  ///< name of the inference engine
  StringView engine_version{};  ///< version or commit of the engine
  uint8_t engine_status{};  ///< status of loading the model; not ok: every inference is refused with it
  uint32_t engine_detail{};  ///< detail of engine_status
  StringView engine_message{};  ///< error message of the engine; empty when ok
  StringView model_id{};  ///< first 12 hex digits of the SHA-256 of model and normalization
  uint32_t normalization_crc{};  ///< CRC-32 (zlib) of mean, inverse_std and clip; 0 = observations are not normalized
  uint32_t n_obs{};  ///< elements of the observation
  uint32_t n_act{};  ///< elements of the action
  uint16_t n_ops{};  ///< operators of the model
  float input_scale{};  ///< quantization of the (normalized) observation
  int8_t input_zero_point{};
  float output_scale{};  ///< quantization of the action
  int8_t output_zero_point{};
  uint16_t n_self_test{};  ///< golden vectors in the image
  uint32_t arena_used{};  ///< B; size of the tensor arena that the model uses
  uint32_t arena_size{};  ///< B; size of the tensor arena
  uint32_t clock_hz{};  ///< Hz; processor clock; 0 = unknown
  uint32_t rx_buffer{};  ///< B; bytes that may be in flight to the board
  uint16_t max_payload{};  ///< B; longest payload that the board accepts
  uint16_t max_text{};  ///< B; longest text line that the board accepts, without its line end; 0 = disabled
  uint32_t watchdog_ms{};  ///< ms; 0 = off
  uint32_t stack{};  ///< B; peak stack usage so far; 0 = unknown
  uint32_t ram{};  ///< B; static RAM of the image; 0 = unknown
  uint32_t flash{};  ///< B; size of the image; 0 = unknown
  uint8_t uploaded{};  ///< 1: the model was uploaded by LOAD and is lost on reset
  uint32_t upload_size{};  ///< B; longest upload that the board accepts: model, normalization and vectors; 0 = none
  uint8_t element_type{};  ///< of raw values, the model's inputs and outputs: 0 int8, 1 int16 (int16x8), 2 float32

  /// False when the payload does not have this layout.
  bool Read(PayloadReader* reader) {
    return reader->Read(&protocol) && reader->Read(&schema_crc) && reader->Read(&nonce) && reader->Read(&firmware_commit) && reader->Read(&board) && reader->Read(&processor) && reader->Read(&engine) && reader->Read(&engine_version) && reader->Read(&engine_status) && reader->Read(&engine_detail) && reader->Read(&engine_message) && reader->Read(&model_id) && reader->Read(&normalization_crc) && reader->Read(&n_obs) && reader->Read(&n_act) && reader->Read(&n_ops) && reader->Read(&input_scale) && reader->Read(&input_zero_point) && reader->Read(&output_scale) && reader->Read(&output_zero_point) && reader->Read(&n_self_test) && reader->Read(&arena_used) && reader->Read(&arena_size) && reader->Read(&clock_hz) && reader->Read(&rx_buffer) && reader->Read(&max_payload) && reader->Read(&max_text) && reader->Read(&watchdog_ms) && reader->Read(&stack) && reader->Read(&ram) && reader->Read(&flash) && reader->Read(&uploaded) && reader->Read(&upload_size) && reader->Read(&element_type) && reader->AtEnd();
  }
  void Write(PayloadWriter* writer) const {
    writer->Write(protocol);
    writer->Write(schema_crc);
    writer->Write(nonce);
    writer->Write(firmware_commit);
    writer->Write(board);
    writer->Write(processor);
    writer->Write(engine);
    writer->Write(engine_version);
    writer->Write(engine_status);
    writer->Write(engine_detail);
    writer->Write(engine_message);
    writer->Write(model_id);
    writer->Write(normalization_crc);
    writer->Write(n_obs);
    writer->Write(n_act);
    writer->Write(n_ops);
    writer->Write(input_scale);
    writer->Write(input_zero_point);
    writer->Write(output_scale);
    writer->Write(output_zero_point);
    writer->Write(n_self_test);
    writer->Write(arena_used);
    writer->Write(arena_size);
    writer->Write(clock_hz);
    writer->Write(rx_buffer);
    writer->Write(max_payload);
    writer->Write(max_text);
    writer->Write(watchdog_ms);
    writer->Write(stack);
    writer->Write(ram);
    writer->Write(flash);
    writer->Write(uploaded);
    writer->Write(upload_size);
    writer->Write(element_type);
  }
};

/// Result of one inference.
struct Action {
  static constexpr MessageType kType = MessageType::kAction;
  uint8_t status{};  ///< ok; an inference that fails is answered by ERROR
  ArrayView<int8_t> input{};  ///< bytes of [n_obs] raw values, input of the model
  ArrayView<int8_t> output{};  ///< bytes of [n_act] raw values, output of the model
  ArrayView<float> action{};  ///< [n_act], dequantized
  uint32_t inference_us{};  ///< us; time in the engine
  uint32_t total_us{};  ///< us; from the last byte of the request until the reply is ready

  /// False when the payload does not have this layout.
  bool Read(PayloadReader* reader) {
    return reader->Read(&status) && reader->Read(&input) && reader->Read(&output) && reader->Read(&action) && reader->Read(&inference_us) && reader->Read(&total_us) && reader->AtEnd();
  }
  void Write(PayloadWriter* writer) const {
    writer->Write(status);
    writer->Write(input);
    writer->Write(output);
    writer->Write(action);
    writer->Write(inference_us);
    writer->Write(total_us);
  }
};

/// Output of one operator, or as much of it as a frame holds.
struct TensorData {
  static constexpr MessageType kType = MessageType::kTensorData;
  uint16_t op{};  ///< index in the TENSOR request
  uint32_t offset{};  ///< of the request
  uint32_t size{};  ///< B; of the whole output
  ArrayView<int8_t> values{};  ///< bytes of raw values, row-major, from the offset on: all that fit

  /// False when the payload does not have this layout.
  bool Read(PayloadReader* reader) {
    return reader->Read(&op) && reader->Read(&offset) && reader->Read(&size) && reader->Read(&values) && reader->AtEnd();
  }
  void Write(PayloadWriter* writer) const {
    writer->Write(op);
    writer->Write(offset);
    writer->Write(size);
    writer->Write(values);
  }
};

/// An inference is done; TENSOR reads its output.
struct Inferred {
  static constexpr MessageType kType = MessageType::kInferred;
  uint32_t input_crc{};  ///< CRC-32 (zlib) of the input, raw values [n_obs]
  uint32_t output_crc{};  ///< of the output, raw values [n_act]
  uint32_t action_crc{};  ///< of the action, float32 [n_act]
  uint32_t inference_us{};  ///< us; time in the engine
  uint32_t total_us{};  ///< us; from the last byte of the request until the reply is ready

  /// False when the payload does not have this layout.
  bool Read(PayloadReader* reader) {
    return reader->Read(&input_crc) && reader->Read(&output_crc) && reader->Read(&action_crc) && reader->Read(&inference_us) && reader->Read(&total_us) && reader->AtEnd();
  }
  void Write(PayloadWriter* writer) const {
    writer->Write(input_crc);
    writer->Write(output_crc);
    writer->Write(action_crc);
    writer->Write(inference_us);
    writer->Write(total_us);
  }
};

/// Result of the self-test.
struct SelfTestResult {
  static constexpr MessageType kType = MessageType::kSelfTestResult;
  uint8_t status{};  ///< ok when every vector was replayed, even if outputs differ
  uint16_t count{};  ///< vectors replayed
  uint16_t mismatches{};  ///< vectors whose output differs
  uint16_t first_mismatch{};  ///< index of the first mismatch; 65535 = none

  /// False when the payload does not have this layout.
  bool Read(PayloadReader* reader) {
    return reader->Read(&status) && reader->Read(&count) && reader->Read(&mismatches) && reader->Read(&first_mismatch) && reader->AtEnd();
  }
  void Write(PayloadWriter* writer) const {
    writer->Write(status);
    writer->Write(count);
    writer->Write(mismatches);
    writer->Write(first_mismatch);
  }
};

/// Mean times of an inference and of its parts, by the board's clock.
struct ProfileResult {
  static constexpr MessageType kType = MessageType::kProfileResult;
  uint16_t repeats{};  ///< runs that each mean is of
  float total_us{};  ///< us; from the frame of INFER to that of ACTION
  float decode_us{};  ///< us; the frame of INFER
  float quantize_us{};  ///< us; checks, normalization, quantization
  float engine_us{};  ///< us; the model
  ArrayView<float> operators_us{};  ///< us; [n_ops], each operator of the model; empty where the engine runs only whole models
  float dequantize_us{};  ///< us
  float encode_us{};  ///< us; the frame of ACTION

  /// False when the payload does not have this layout.
  bool Read(PayloadReader* reader) {
    return reader->Read(&repeats) && reader->Read(&total_us) && reader->Read(&decode_us) && reader->Read(&quantize_us) && reader->Read(&engine_us) && reader->Read(&operators_us) && reader->Read(&dequantize_us) && reader->Read(&encode_us) && reader->AtEnd();
  }
  void Write(PayloadWriter* writer) const {
    writer->Write(repeats);
    writer->Write(total_us);
    writer->Write(decode_us);
    writer->Write(quantize_us);
    writer->Write(engine_us);
    writer->Write(operators_us);
    writer->Write(dequantize_us);
    writer->Write(encode_us);
  }
};

/// Counters since boot.
struct Stats {
  static constexpr MessageType kType = MessageType::kStats;
  uint32_t requests{};  ///< complete frames and text lines received
  uint32_t errors{};  ///< requests answered by an error
  uint32_t inferences{};  ///< inferences completed
  uint32_t crc_errors{};  ///< frames with a wrong CRC
  uint32_t framing_errors{};  ///< frames that are not valid COBS, too short, too long or truncated
  uint32_t dropped_bytes{};  ///< B; bytes outside valid frames and lines
  uint32_t overruns{};  ///< UART overruns
  uint32_t dropped_replies{};  ///< replies dropped because the host did not read them
  uint32_t watchdog_trips{};  ///< times that the watchdog put the board into the safe state
  uint8_t safe_state{};  ///< 1: the actuators stay off until the next observation
  uint32_t uptime_ms{};  ///< ms
  uint32_t inference_min_us{};  ///< us; of the active model; 0 before its first inference
  uint32_t inference_max_us{};  ///< us
  uint32_t arena_used{};  ///< B
  uint32_t stack{};  ///< B; peak stack usage so far; 0 = unknown

  /// False when the payload does not have this layout.
  bool Read(PayloadReader* reader) {
    return reader->Read(&requests) && reader->Read(&errors) && reader->Read(&inferences) && reader->Read(&crc_errors) && reader->Read(&framing_errors) && reader->Read(&dropped_bytes) && reader->Read(&overruns) && reader->Read(&dropped_replies) && reader->Read(&watchdog_trips) && reader->Read(&safe_state) && reader->Read(&uptime_ms) && reader->Read(&inference_min_us) && reader->Read(&inference_max_us) && reader->Read(&arena_used) && reader->Read(&stack) && reader->AtEnd();
  }
  void Write(PayloadWriter* writer) const {
    writer->Write(requests);
    writer->Write(errors);
    writer->Write(inferences);
    writer->Write(crc_errors);
    writer->Write(framing_errors);
    writer->Write(dropped_bytes);
    writer->Write(overruns);
    writer->Write(dropped_replies);
    writer->Write(watchdog_trips);
    writer->Write(safe_state);
    writer->Write(uptime_ms);
    writer->Write(inference_min_us);
    writer->Write(inference_max_us);
    writer->Write(arena_used);
    writer->Write(stack);
  }
};

/// Watchdog timeout in force.
struct Watchdog {
  static constexpr MessageType kType = MessageType::kWatchdog;
  uint32_t timeout_ms{};  ///< ms; 0 = off

  /// False when the payload does not have this layout.
  bool Read(PayloadReader* reader) {
    return reader->Read(&timeout_ms) && reader->AtEnd();
  }
  void Write(PayloadWriter* writer) const {
    writer->Write(timeout_ms);
  }
};

/// Whether text lines are enabled.
struct TextLine {
  static constexpr MessageType kType = MessageType::kTextLine;
  uint16_t max_text{};  ///< B; longest line that the board accepts; 0 = disabled

  /// False when the payload does not have this layout.
  bool Read(PayloadReader* reader) {
    return reader->Read(&max_text) && reader->AtEnd();
  }
  void Write(PayloadWriter* writer) const {
    writer->Write(max_text);
  }
};

/// The data of the ECHO.
struct EchoReply {
  static constexpr MessageType kType = MessageType::kEchoReply;
  ArrayView<uint8_t> data{};

  /// False when the payload does not have this layout.
  bool Read(PayloadReader* reader) {
    return reader->Read(&data) && reader->AtEnd();
  }
  void Write(PayloadWriter* writer) const {
    writer->Write(data);
  }
};

/// Progress of the upload.
struct LoadProgress {
  static constexpr MessageType kType = MessageType::kLoadProgress;
  uint32_t transfer{};
  uint32_t received{};  ///< B; contiguous bytes from the start

  /// False when the payload does not have this layout.
  bool Read(PayloadReader* reader) {
    return reader->Read(&transfer) && reader->Read(&received) && reader->AtEnd();
  }
  void Write(PayloadWriter* writer) const {
    writer->Write(transfer);
    writer->Write(received);
  }
};

/// Result of LOAD_COMMIT; after ok, a new HELLO is required.
struct LoadResult {
  static constexpr MessageType kType = MessageType::kLoadResult;
  uint32_t transfer{};
  uint8_t status{};  ///< ok: the new model is active; otherwise the reason for refusal, and the previous model stays active
  uint32_t detail{};  ///< see the status
  StringView message{};  ///< error message of the engine; empty when ok

  /// False when the payload does not have this layout.
  bool Read(PayloadReader* reader) {
    return reader->Read(&transfer) && reader->Read(&status) && reader->Read(&detail) && reader->Read(&message) && reader->AtEnd();
  }
  void Write(PayloadWriter* writer) const {
    writer->Write(transfer);
    writer->Write(status);
    writer->Write(detail);
    writer->Write(message);
  }
};

/// The request was refused.
struct Error {
  static constexpr MessageType kType = MessageType::kError;
  uint8_t status{};  ///< reason
  uint32_t detail{};  ///< see the status
  uint8_t request{};  ///< type of the request

  /// False when the payload does not have this layout.
  bool Read(PayloadReader* reader) {
    return reader->Read(&status) && reader->Read(&detail) && reader->Read(&request) && reader->AtEnd();
  }
  void Write(PayloadWriter* writer) const {
    writer->Write(status);
    writer->Write(detail);
    writer->Write(request);
  }
};

/// Calls `visit` with an empty request of this type, to be filled by its Read(). Returns false where no request has the type.
/// Without `kPieces`, those that carry an input in pieces are none.
template <bool kPieces, typename Visitor>
bool VisitRequest(uint8_t type, const Visitor& visit) {
  switch (static_cast<MessageType>(type)) {
    case MessageType::kHello:
      visit(Hello{});
      break;
    case MessageType::kInfer:
      visit(Infer{});
      break;
    case MessageType::kInferInt8:
      visit(InferInt8{});
      break;
    case MessageType::kTensor:
      visit(Tensor{});
      break;
    case MessageType::kInputData:
      if constexpr (!kPieces) return false;
      else visit(InputData{});
      break;
    case MessageType::kObservationData:
      if constexpr (!kPieces) return false;
      else visit(ObservationData{});
      break;
    case MessageType::kInferStored:
      if constexpr (!kPieces) return false;
      else visit(InferStored{});
      break;
    case MessageType::kSelfTest:
      visit(SelfTest{});
      break;
    case MessageType::kProfile:
      visit(Profile{});
      break;
    case MessageType::kStatsRequest:
      visit(StatsRequest{});
      break;
    case MessageType::kSetWatchdog:
      visit(SetWatchdog{});
      break;
    case MessageType::kSetTextLine:
      visit(SetTextLine{});
      break;
    case MessageType::kEcho:
      visit(Echo{});
      break;
    case MessageType::kReset:
      visit(Reset{});
      break;
    case MessageType::kEnterBootloader:
      visit(EnterBootloader{});
      break;
    case MessageType::kLoadBegin:
      visit(LoadBegin{});
      break;
    case MessageType::kLoadData:
      visit(LoadData{});
      break;
    case MessageType::kLoadCommit:
      visit(LoadCommit{});
      break;
    case MessageType::kLoadAbort:
      visit(LoadAbort{});
      break;
    default:
      return false;
  }
  return true;
}

}  // namespace hil::protocol
