#include "board.h"

#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "frame/crc32.h"
#include "seed_model.h"

namespace hil::fuzz {

void Require(bool holds, const char* what) {
  if (holds) return;
  std::fprintf(stderr, "violated: %s\n", what);
  std::abort();
}

bool Machine::Write(const uint8_t* data, size_t size) {
  if (blocked) return false;
  uint32_t records = 0;
  for (size_t i = 0; i < size; ++i) {
    const Decoder::Event event = decoder_.Feed(data[i]);
    if (event == Decoder::Event::kNone) continue;
    ++records;
    Require(event == Decoder::Event::kFrame || event == Decoder::Event::kLine, "the board sends whole frames and lines");
    if (event != Decoder::Event::kFrame) continue;
    last = decoder_.frame();
    payload.assign(last.payload, last.payload + last.payload_size);
    last.payload = payload.data();
  }
  const DecoderCounters& counters = decoder_.counters();
  Require(counters.crc_errors + counters.framing_errors + counters.dropped_bytes == 0, "the board sends no damaged bytes");
  Require(records == 1, "one reply is one record");
  ++replies;
  return true;
}

void Machine::Apply(const float* action, size_t count) {
  Require(count > 0 && count <= kMaxAct, "the number of actions is within the protocol's limit");
  for (size_t i = 0; i < count; ++i) Require(action[i] == action[i] && action[i] - action[i] == 0.0f, "an action is finite");
  safe = false;
}

Board::Board() {
  Place places[2];
  for (size_t i = 0; i < 2; ++i) {
    arenas_[i] = std::make_unique<uint8_t[]>(kArenaBytes);
    uploads_[i] = std::make_unique<uint8_t[]>(kUploadBytes);
    places[i] = {&engines_[i], {arenas_[i].get(), kArenaBytes}, uploads_[i].get(), kUploadBytes};
  }
  static const ModelId kId = ComputeModelId(kSeedModel, sizeof kSeedModel);
  ModelImage image;
  image.model = {kSeedModel, sizeof kSeedModel};
  image.id = kId.text;
  ServerConfig config;
  config.identity.board = "fuzz";
  board_ = std::make_unique<hil::Board>(config, Peripherals{&machine_, &machine_, &machine_, &machine_}, places[0], places[1]);
  board_->Start(image, hal::ResetCause::kPowerOn);
  Require(board_->policy().load_outcome().ok(), "the target's own model loads");
  Require(machine_.safe && machine_.replies == 1, "a board sends READY and is in the safe state");
}

void Board::Send(uint8_t type, const uint8_t* payload, size_t size) {
  std::vector<uint8_t> body(kFrameHeaderSize + size + sizeof(uint32_t));
  ++seq_;
  body[0] = type;
  std::memcpy(body.data() + 1, &seq_, sizeof seq_);
  if (size > 0) std::memcpy(body.data() + kFrameHeaderSize, payload, size);
  const uint32_t crc = Crc32(body.data(), kFrameHeaderSize + size, CrcSeed(type));
  std::memcpy(body.data() + kFrameHeaderSize + size, &crc, sizeof crc);
  std::vector<uint8_t> frame(1 + body.size() + body.size() / 254 + 2);
  const size_t encoded = CobsEncode(body.data(), body.size(), frame.data() + 1);  // after a 0x00 that ends any partial frame
  const uint32_t before = machine_.replies;
  Step(frame.data(), encoded + 2);
  if (machine_.blocked) return;
  Require(machine_.replies >= before + 1, "a valid frame is answered");
  Require(machine_.last.seq == seq_, "a reply carries the number of its request");
}

void Board::Step(const uint8_t* data, size_t size) { board_->Step(data, size); }

std::vector<int8_t> Board::Fingerprint() {
  const Policy& running = board_->policy();
  std::vector<int8_t> output(running.info().n_act);
  const std::vector<int8_t> input(running.info().n_obs, 3);
  Engine& engine = engines_[&running.info() == &engines_[1].info() ? 1 : 0];
  Require(engine.Infer(input.data(), output.data()) == Status::kOk, "the active model runs");
  return output;
}

}  // namespace hil::fuzz
