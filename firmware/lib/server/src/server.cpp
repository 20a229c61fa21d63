#include "server/server.h"

#include <cstring>

#include "frame/crc32.h"

namespace hil {
namespace {

constexpr uint64_t kUsPerMs = 1000;

// A partial frame is dropped after a timeout, so that the next frame is not read as its remainder.
constexpr uint64_t kPartialFrameUs = kUsPerMs * protocol::kPartialFrameTimeoutMs;

// An upload is verified in slices of this length, so that requests and watchdog are served between them.
constexpr uint64_t kSliceUs = 1 * kUsPerMs;

// Together, the strings of INFO fit its payload.
constexpr size_t kNameLimit = 80;
constexpr size_t kMessageLimit = 240;

// Values that fit TENSOR_DATA beside its op, offset, size and count.
constexpr uint32_t kTensorPiece = protocol::kMaxPayload - 12;

// PROFILE takes about this time, in which it runs everything three times: as a whole, the parts, and the operators of the engine.
constexpr float kProfileUs = 20'000.0F;
constexpr float kPasses = 3.0F;
constexpr float kMaxRepeats = 1000.0F;
constexpr uint16_t kMaxOperators = 64;  // as many as the compact engine runs

uint32_t CrcOf(const Normalization& by) {
  if (by.none()) return 0;
  const uint32_t crc = Crc32(by.inverse_std.bytes(), by.inverse_std.byte_size(), Crc32(by.mean.bytes(), by.mean.byte_size(), 0));
  return Crc32(reinterpret_cast<const uint8_t*>(&by.clip), sizeof(by.clip), crc);
}

/// Input, output or action of a policy, by the numbers that TENSOR has for them.
Outcome EndOf(const Policy& policy, uint16_t op, TensorView* values) {
  if (!policy.load_outcome().ok()) return policy.load_outcome();
  if (op == protocol::kInputTensor) {
    *values = TensorView(policy.input(), policy.input_bytes());
  } else if (!policy.has_result()) {
    return {Status::kNoInferenceYet, 0};
  } else if (op == protocol::kOutputTensor) {
    *values = TensorView(policy.output(), policy.output_bytes());
  } else {
    *values = TensorView::FromBytes(reinterpret_cast<const uint8_t*>(policy.action()), policy.info().n_act * sizeof(float));
  }
  return {};
}

uint32_t ProfileRepeats(float pass_us) {
  const float repeats = kProfileUs / (kPasses * pass_us);  // infinite for a pass of no time
  return repeats < 1.0F ? 1 : static_cast<uint32_t>(repeats < kMaxRepeats ? repeats : kMaxRepeats);
}

}  // namespace

void Server::Boot(hal::ResetCause cause) {
  hw_.actuator->EnterSafeState();
  protocol::Ready ready;
  ready.protocol = static_cast<uint16_t>(protocol::kVersion);
  ready.schema_crc = protocol::kSchemaCrc;
  ready.reset_cause = static_cast<uint8_t>(cause);
  // A text-only host receives READY as one unparsable line, and the reply to its first line as a separate line.
  out_[0] = 0;
  const size_t size = 1 + encoder_.Encode(ready, 0, out_ + 1);
  out_[size] = '\n';
  Send(out_, size + 1);
}

void Server::Step(const uint8_t* data, size_t size) {
  const uint64_t now_us = hw_.clock->NowUs();
  if (watchdog_.Trips(now_us)) {
    hw_.actuator->EnterSafeState();
    held_ = identified_;
  }
  if (size != 0) {
    received_us_ = now_us;
  } else if (decoder_.InsideFrame() && now_us - received_us_ >= kPartialFrameUs) {
    decoder_.Reset();
  }
  for (size_t i = 0; i < size; ++i) {
    const Decoder::Event event = decoder_.Feed(data[i]);
    if (event != Decoder::Event::kNone) HandleEvent(event);
  }
  VerifyUpload();
}

uint32_t Server::MsToNextEvent() const {
  if (upload_.verifying()) return 0;
  uint64_t next_us = watchdog_.NextTripUs();
  if (decoder_.InsideFrame() && received_us_ + kPartialFrameUs < next_us) next_us = received_us_ + kPartialFrameUs;
  if (next_us == UINT64_MAX) return UINT32_MAX;
  const uint64_t now_us = hw_.clock->NowUs();
  return next_us <= now_us ? 0 : static_cast<uint32_t>((next_us - now_us + kUsPerMs - 1) / kUsPerMs);
}

void Server::HandleEvent(Decoder::Event event) {
  ++requests_;
  frame_ = decoder_.frame();
  switch (event) {
    case Decoder::Event::kFrame:
      return HandleFrame();
    case Decoder::Event::kLine:
      return HandleLine(decoder_.line());
    case Decoder::Event::kOversized:
      return ReplyError({Status::kOversized, protocol::kMaxPayload});
    case Decoder::Event::kLongLine:
      return ReplyLineError(Status::kOversized, false);
    case Decoder::Event::kNone:
      return;
  }
}

void Server::HandleFrame() {
  if (protocol::IsGated<kInPieces>(frame_.type) && !identified_) return ReplyError({Status::kNotIdentified, 0});
  const bool known = protocol::VisitRequest<kInPieces>(frame_.type, [this](auto request) {
    PayloadReader reader(frame_.payload, frame_.payload_size);
    if (request.Read(&reader)) return Handle(request);
    ReplyError({Status::kWrongLength, static_cast<uint32_t>(frame_.payload_size)});
  });
  if (!known) ReplyError({Status::kUnknownType, frame_.type});
}

void Server::Handle(const protocol::Hello& request) {
  const Policy& running = models_.running();
  const EngineInfo& engine = running.info();
  if (!identified_ || request.nonce != session_) BeginSession();
  identified_ = true;
  session_ = request.nonce;
  protocol::Info info;
  info.protocol = static_cast<uint16_t>(protocol::kVersion);
  info.schema_crc = protocol::kSchemaCrc;
  info.nonce = request.nonce;
  info.firmware_commit = StringView::FromC(config_.identity.firmware_commit, kNameLimit);
  info.board = StringView::FromC(config_.identity.board, kNameLimit);
  info.processor = StringView::FromC(config_.identity.processor, kNameLimit);
  info.engine = StringView::FromC(engine.name, kNameLimit);
  info.engine_version = StringView::FromC(engine.version, kNameLimit);
  info.engine_status = static_cast<uint8_t>(running.load_outcome().status);
  info.engine_detail = running.load_outcome().detail;
  info.engine_message = StringView::FromC(running.message(), kMessageLimit);
  info.model_id = StringView::FromC(running.image().id, kNameLimit);
  info.normalization_crc = running.load_outcome().ok() ? CrcOf(running.image().normalization) : 0;
  info.n_obs = engine.n_obs;
  info.n_act = engine.n_act;
  info.n_ops = engine.n_ops;
  info.input_scale = engine.input.scale;
  info.input_zero_point = engine.input.zero_point;
  info.output_scale = engine.output.scale;
  info.output_zero_point = engine.output.zero_point;
  info.n_self_test = running.image().golden.count;
  info.arena_used = engine.arena_used;
  info.arena_size = engine.arena_size;
  info.clock_hz = config_.identity.clock_hz;
  info.rx_buffer = config_.identity.rx_buffer;
  info.max_payload = static_cast<uint16_t>(protocol::kMaxPayload);
  info.max_text = MaxText();
  info.watchdog_ms = watchdog_.timeout_ms();
  info.stack = hw_.system->StackHighWater();
  info.ram = config_.identity.ram;
  info.flash = config_.identity.flash;
  info.element_type = static_cast<uint8_t>(engine.input.type);
  info.uploaded = models_.uploaded() ? 1 : 0;
  info.upload_size = static_cast<uint32_t>(models_.upload_capacity());
  Reply(info);
}

void Server::BeginSession() {
  watchdog_.SetTimeout(config_.watchdog_ms);
  text_line_ = config_.text_line;
}

/// Puts the actuators in the safe state, which only INFER and INFER_INT8 end.
void Server::HoldActuators() {
  watchdog_.Hold();
  hw_.actuator->EnterSafeState();
  held_ = true;
}

void Server::Handle(const protocol::Infer& request) {
  ReplyAction(upload_.verifying() ? upload_.Busy() : models_.running().Run(request.observation));
}

void Server::Handle(const protocol::InferInt8& request) {
  ReplyAction(upload_.verifying() ? upload_.Busy() : models_.running().RunInt8(request.input));
}

void Server::Handle(const protocol::Tensor& request) {
  TensorView whole;
  Policy& policy = models_.running();
  const bool is_end = kInPieces && request.op >= protocol::kActionTensor;
  const Outcome outcome = is_end ? EndOf(policy, request.op, &whole) : policy.Tensor(request.op, &whole);
  if (!outcome.ok()) return ReplyError(outcome);
  if (request.offset != 0 && request.offset >= whole.size()) return ReplyError({Status::kWrongOffset, whole.size()});
  const uint32_t left = whole.size() - request.offset;
  protocol::TensorData reply;
  reply.op = request.op;
  reply.offset = request.offset;
  reply.size = whole.size();
  reply.values = TensorView::FromBytes(whole.bytes() + request.offset, left < kTensorPiece ? left : kTensorPiece);
  Reply(reply);
}

void Server::Handle(const protocol::InputData& request) {
  const Outcome outcome = upload_.verifying() ? upload_.Busy() : models_.running().Store(request.offset, request.values);
  ReplyInput(outcome, request.offset, request.values.size());
}

void Server::Handle(const protocol::ObservationData& request) {
  const Outcome outcome = upload_.verifying() ? upload_.Busy() : models_.running().Store(request.offset, request.values);
  const uint32_t width = WidthOf(models_.running().info().input.type);
  ReplyInput(outcome, request.offset * width, request.values.size() * width);
}

void Server::ReplyInput(const Outcome& outcome, uint32_t offset, uint32_t size) {
  if (!outcome.ok()) return ReplyError(outcome);
  const Policy& running = models_.running();
  Reply(protocol::TensorData{protocol::kInputTensor, offset, running.input_bytes(), {running.input() + offset, size}});
}

void Server::Handle(const protocol::InferStored& request) {
  if (upload_.verifying()) return ReplyError(upload_.Busy());
  Policy& running = models_.running();
  const uint32_t stored = Crc32(reinterpret_cast<const uint8_t*>(running.input()), running.input_bytes(), 0);
  const bool is_right = stored == request.input_crc || !running.load_outcome().ok();
  const Outcome outcome = is_right ? running.RunStored() : Outcome{Status::kUploadDamaged, stored};
  if (!outcome.ok()) return ReplyError(outcome);
  held_ = false;
  Act();
  protocol::Inferred reply;
  reply.input_crc = request.input_crc;
  reply.output_crc = Crc32(reinterpret_cast<const uint8_t*>(running.output()), running.output_bytes(), 0);
  const size_t action_bytes = running.info().n_act * sizeof(float);
  reply.action_crc = Crc32(reinterpret_cast<const uint8_t*>(running.action()), action_bytes, 0);
  reply.inference_us = running.times().last_us;
  reply.total_us = static_cast<uint32_t>(hw_.clock->NowUs() - received_us_);
  Reply(reply);
}

void Server::Handle(const protocol::SelfTest&) {
  if (!watchdog_.safe()) HoldActuators();  // the watchdog cannot trip meanwhile
  Policy::SelfTestCount count;
  const Outcome outcome = models_.running().SelfTest(&count);
  if (!outcome.ok()) return ReplyError(outcome);
  protocol::SelfTestResult reply;
  reply.count = models_.running().image().golden.count;
  reply.mismatches = count.mismatches;
  reply.first_mismatch = count.first_mismatch;
  Reply(reply);
}

void Server::Handle(const protocol::Profile& request) {
  if (upload_.verifying()) return ReplyError(upload_.Busy());
  Policy& policy = models_.running();
  const bool is_stored = kInPieces && request.observation.size() == 0;  // then the frames of the parts do not count
  Outcome outcome = is_stored ? policy.load_outcome() : policy.Prepare(request.observation);
  if (outcome.ok()) outcome = policy.Infer();
  if (!outcome.ok()) return ReplyError(outcome);
  if (!watchdog_.safe()) HoldActuators();  // the watchdog cannot trip meanwhile
  uint8_t frame[kMaxFrame + 1];            // the request lies in the decoder
  const size_t size = encoder_.Encode(protocol::Infer{request.observation}, frame_.seq, frame);
  protocol::Infer infer;
  const auto keep = [&](const Outcome& latest) {
    if (!latest.ok()) outcome = latest;
  };
  const auto decode = [&] {
    if (is_stored) return;
    for (size_t i = 0; i < size; ++i) decoder_.Feed(frame[i]);
    PayloadReader reader(decoder_.frame().payload, decoder_.frame().payload_size);
    infer.Read(&reader);
  };
  const auto encode = [&] {
    if (!is_stored) encoder_.Encode(ActionReply(), frame_.seq, out_ + 1);
  };
  const auto quantize = [&] {
    if (!is_stored) keep(policy.Prepare(infer.observation));
  };
  const auto run = [&] { keep(policy.Infer()); };
  const auto dequantize = [&] { policy.Finish(); };
  const auto pass = [&] {
    decode();
    quantize();
    run();
    dequantize();
    encode();
  };
  uint32_t repeats = 1;
  const auto mean_us = [&](const auto& action) {
    const uint64_t start_us = hw_.clock->NowUs();
    for (uint32_t i = 0; i < repeats; ++i) action();
    return static_cast<float>(static_cast<uint32_t>(hw_.clock->NowUs() - start_us)) / static_cast<float>(repeats);
  };
  repeats = ProfileRepeats(mean_us(pass));
  float operators_us[kMaxOperators];
  uint16_t measured = 0;
  protocol::ProfileResult reply;
  reply.repeats = static_cast<uint16_t>(repeats);
  reply.total_us = mean_us(pass);
  reply.decode_us = mean_us(decode);
  reply.quantize_us = mean_us(quantize);
  reply.engine_us = mean_us(run);
  while (measured < kMaxOperators && measured < policy.info().n_ops && policy.RunOperator(measured) == Status::kOk) {
    operators_us[measured] = mean_us([&] { policy.RunOperator(measured); });
    ++measured;
  }
  reply.operators_us = {operators_us, measured};
  reply.dequantize_us = mean_us(dequantize);
  reply.encode_us = mean_us(encode);
  if (!outcome.ok()) return ReplyError(outcome);
  Reply(reply);
}

void Server::Handle(const protocol::StatsRequest&) {
  const DecoderCounters& line = decoder_.counters();
  const InferenceTimes& times = models_.running().times();
  protocol::Stats stats;
  stats.requests = requests_;
  stats.errors = errors_;
  stats.inferences = times.count;
  stats.crc_errors = line.crc_errors;
  stats.framing_errors = line.framing_errors;
  stats.dropped_bytes = line.dropped_bytes;
  stats.overruns = hw_.uart->Overruns();
  stats.dropped_replies = dropped_replies_;
  stats.watchdog_trips = watchdog_.trips();
  stats.safe_state = watchdog_.safe() ? 1 : 0;
  stats.uptime_ms = static_cast<uint32_t>(hw_.clock->NowUs() / kUsPerMs);
  stats.inference_min_us = times.min_us;
  stats.inference_max_us = times.max_us;
  stats.arena_used = models_.running().info().arena_used;
  stats.stack = hw_.system->StackHighWater();
  Reply(stats);
}

void Server::Handle(const protocol::SetWatchdog& request) {
  watchdog_.SetTimeout(request.timeout_ms);
  Reply(protocol::Watchdog{watchdog_.timeout_ms()});
}

void Server::Handle(const protocol::SetTextLine& request) {
  text_line_ = request.enabled != 0;
  Reply(protocol::TextLine{MaxText()});
}

void Server::Handle(const protocol::Echo& request) { Reply(protocol::EchoReply{request.data}); }

void Server::Handle(const protocol::Reset&) {
  hw_.system->Reboot();
  ReplyError({Status::kNotSupported, 0});
}

void Server::Handle(const protocol::EnterBootloader&) {
  hw_.system->EnterBootloader();
  ReplyError({Status::kNotSupported, 0});
}

void Server::Handle(const protocol::LoadBegin& request) { ReplyProgress(upload_.Begin(request), request.transfer); }

void Server::Handle(const protocol::LoadData& request) { ReplyProgress(upload_.Receive(request), request.transfer); }

void Server::Handle(const protocol::LoadCommit& request) {
  const bool was_verifying = upload_.verifying();
  const Outcome outcome = upload_.Commit(request);
  if (!outcome.ok()) return ReplyError(outcome);
  if (upload_.verifying() && !was_verifying) HoldActuators();
  VerifyUpload();
  Reply(upload_.Result(request.transfer));
}

void Server::VerifyUpload() {
  const Policy* const before = &models_.running();
  const uint64_t end_us = hw_.clock->NowUs() + kSliceUs;
  while (upload_.verifying()) {
    upload_.Verify();
    if (hw_.clock->NowUs() >= end_us) break;
  }
  if (&models_.running() == before) return;
  // New policy: a new HELLO before the next request.
  BeginSession();
  identified_ = false;
}

void Server::Handle(const protocol::LoadAbort& request) {
  upload_.Abort(request);
  ReplyProgress({}, request.transfer);
}

void Server::HandleLine(StringView line) {
  bool checksum = false;
  float observation[kFrameObs];
  size_t count = 0;
  Status status = TakesLines() ? TakeChecksum(&line, &checksum) : Status::kTextLineOff;
  if (status == Status::kOk) status = ParseLine(line, observation, kFrameObs, &count);
  if (status == Status::kOk && upload_.verifying()) status = Status::kVerifying;
  Policy& policy = models_.running();
  if (status == Status::kOk) status = policy.Run({observation, static_cast<uint16_t>(count)}).status;
  if (status != Status::kOk) return ReplyLineError(status, checksum);
  if (!held_) Act();
  char* at = reinterpret_cast<char*>(out_);
  for (uint32_t i = 0; i < policy.info().n_act; ++i) {
    if (i != 0) *at++ = ',';
    at += FormatFloat(policy.action()[i], at);
  }
  SendLine(static_cast<size_t>(at - reinterpret_cast<char*>(out_)), checksum);
}

bool Server::ModelFitsLine() const {
  const EngineInfo& model = models_.running().info();
  return model.n_obs <= kFrameObs && model.n_act <= kFrameAct;
}

void Server::ReplyAction(const Outcome& outcome) {
  if (!outcome.ok()) return ReplyError(outcome);
  held_ = false;
  Act();
  Reply(ActionReply());
}

/// ACTION of the latest inference.
protocol::Action Server::ActionReply() const {
  const Policy& running = models_.running();
  protocol::Action reply;
  reply.status = static_cast<uint8_t>(Status::kOk);
  reply.input = {running.input(), running.input_bytes()};
  reply.output = {running.output(), running.output_bytes()};
  reply.action = {running.action(), running.info().n_act};
  reply.inference_us = running.times().last_us;
  reply.total_us = static_cast<uint32_t>(hw_.clock->NowUs() - received_us_);
  return reply;
}

void Server::ReplyProgress(const Outcome& outcome, uint32_t transfer) {
  if (!outcome.ok()) return ReplyError(outcome);
  Reply(protocol::LoadProgress{transfer, upload_.received()});
}

void Server::ReplyError(const Outcome& outcome) {
  ++errors_;
  Reply(protocol::Error{static_cast<uint8_t>(outcome.status), outcome.detail, frame_.type});
}

void Server::ReplyLineError(Status status, bool checksum) {
  ++errors_;
  constexpr char kPrefix[] = "error: ";
  const size_t prefix = sizeof(kPrefix) - 1;
  const size_t length = std::strlen(StatusName(status));
  std::memcpy(out_, kPrefix, prefix);
  std::memcpy(out_ + prefix, StatusName(status), length);
  SendLine(prefix + length, checksum);
}

void Server::SendLine(size_t size, bool checksum) {
  if (checksum) size = AddChecksum(reinterpret_cast<char*>(out_), size);
  out_[size] = '\n';
  Send(out_, size + 1);
}

template <typename Message>
void Server::Reply(const Message& message) {
  SendFrame(encoder_.Encode(message, frame_.seq, out_ + 1));
}

/// Sends the frame of `size` bytes that is encoded behind the first byte of `out_`.
void Server::SendFrame(size_t size) {
  if (size == 0) {  // the reply does not fit a frame; this error does
    ++errors_;
    const protocol::Error error{static_cast<uint8_t>(Status::kOversized), protocol::kMaxPayload, frame_.type};
    size = encoder_.Encode(error, frame_.seq, out_ + 1);
  }
  out_[0] = 0;
  if (needs_delimiter_) return Send(out_, size + 1);
  Send(out_ + 1, size);
}

void Server::Act() {
  watchdog_.Feed(hw_.clock->NowUs());
  hw_.actuator->Apply(models_.running().action(), models_.running().info().n_act);
}

void Server::Send(const uint8_t* data, size_t size) {
  const bool sent = hw_.uart->Write(data, size);
  if (!sent) ++dropped_replies_;
  needs_delimiter_ = !sent || data[size - 1] != 0;
}

}  // namespace hil
