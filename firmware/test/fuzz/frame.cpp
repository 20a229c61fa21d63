// Fuzz target: arbitrary bytes on the wire, for the decoder alone. It accounts for every byte; accepted messages survive a round
// trip.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "frame/decoder.h"
#include "frame/encoder.h"

namespace {

constexpr size_t kRoomForNumbers = 8;

void Require(bool holds) {
  if (!holds) std::abort();
}

/// COBS round trip, in buffers of exactly the documented size.
void RoundTrip(const uint8_t* data, size_t size) {
  std::vector<uint8_t> encoded(size + size / 254 + 1);
  const size_t length = hil::CobsEncode(data, size, encoded.data());
  Require(length <= encoded.size());
  for (size_t i = 0; i < length; ++i) Require(encoded[i] != 0);
  Require(hil::CobsDecode(encoded.data(), length) == size);
  if (size > 0) Require(std::memcmp(encoded.data(), data, size) == 0);
}

/// With any layout, the reader stays within the payload, and writing the message again gives the same bytes.
template <typename Message>
void ReadAs(const hil::FrameView& frame) {
  const std::vector<uint8_t> payload(frame.payload, frame.payload + frame.payload_size);
  hil::PayloadReader reader(payload.data(), payload.size());
  Message message;
  if (!message.Read(&reader)) return;
  std::vector<uint8_t> again(payload.size() + kRoomForNumbers);
  hil::PayloadWriter writer(again.data(), again.size());
  message.Write(&writer);
  Require(!writer.overflowed() && writer.size() == payload.size());
  if (!payload.empty()) Require(std::memcmp(again.data(), payload.data(), payload.size()) == 0);
}

void ReadAsEverything(const hil::FrameView& frame) {
  using namespace hil::protocol;
  for (int type = 0x80; type < 0xC0; ++type) {
    VisitRequest<true>(static_cast<uint8_t>(type), [&](auto request) { ReadAs<decltype(request)>(frame); });
  }
  ReadAs<Info>(frame);
  ReadAs<Action>(frame);
  ReadAs<TensorData>(frame);
  ReadAs<ProfileResult>(frame);
  ReadAs<LoadResult>(frame);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  RoundTrip(data, size);
  std::vector<uint8_t> copy(data, data + size);
  hil::CobsDecode(copy.data(), copy.size());
  const hil::FrameView whole{0, 0, data, size};
  ReadAsEverything(whole);

  hil::Decoder decoder;
  size_t accepted = 0;
  size_t delimiters = 0;
  for (size_t i = 0; i < size; ++i) {
    const hil::Decoder::Event event = decoder.Feed(data[i]);
    if (data[i] == 0 || data[i] == '\n' || data[i] == '\r') ++delimiters;
    if (event == hil::Decoder::Event::kFrame) {
      accepted += decoder.frame().payload_size + hil::kFrameOverhead + 1;
      ReadAsEverything(decoder.frame());
    } else if (event == hil::Decoder::Event::kLine) {
      accepted += decoder.line().size;
      Require(decoder.line().size <= hil::protocol::kMaxText);
    }
  }
  decoder.Reset();
  // A byte is part of a record, a delimiter, or dropped; COBS adds one per 254.
  Require(decoder.counters().dropped_bytes <= size);
  Require(accepted + accepted / 254 + decoder.counters().dropped_bytes + delimiters + 1 + accepted / 8 >= size);
  return 0;
}
