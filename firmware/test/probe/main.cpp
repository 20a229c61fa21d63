// Parts of the firmware behind a command line, so that the host's tests run the code of the board.
//
// One command a line on stdin; the answer is any number of lines and then ".". Bytes are hex; floats are their bytes.
//
//   frames BYTES                    events and counters of the decoder
//   quantize SCALE ZERO FLOATS      int8 values              dequantize SCALE ZERO BYTES   floats
//   parse BYTES                     status, floats           format FLOATS                 text, one number a line
//   model_id BYTES                  the id                   checksum BYTES                TakeChecksum and AddChecksum
//   server WATCHDOG_MS LOAD_STATUS  boots a new server on simulated hardware (fake_board.h)
//   feed BYTES | idle | time US | next | uart ok|blocked | engine STATUS | engine_us US_PER_INFERENCE
//   room yes|no                     whether the next server accepts uploads
//   normalized yes|no               whether the model of the next server has a normalization
//   normalize MEAN FACTOR CLIP FLOATS

#include <cstring>
#include <functional>
#include <iostream>
#include <map>
#include <memory>
#include <sstream>
#include <string>
#include <vector>

#include "fake_board.h"
#include "frame/decoder.h"
#include "hex.h"
#include "model_id/model_id.h"
#include "quantize/normalize.h"
#include "quantize/quantize.h"
#include "server/text_line.h"

namespace hil::probe {
namespace {

using Arguments = std::vector<std::string>;

void PrintCounters(const DecoderCounters& counters) {
  std::cout << "counters " << counters.crc_errors << ' ' << counters.framing_errors << ' ' << counters.dropped_bytes << '\n';
}

void PrintEvent(const Decoder& decoder, Decoder::Event event) {
  const FrameView& frame = decoder.frame();
  switch (event) {
    case Decoder::Event::kFrame:
      std::cout << "frame " << int{frame.type} << ' ' << frame.seq << ' ' << ToHex(frame.payload, frame.payload_size) << '\n';
      break;
    case Decoder::Event::kLine:
      std::cout << "line " << ToHex(decoder.line().data, decoder.line().size) << '\n';
      break;
    case Decoder::Event::kOversized:
      std::cout << "oversized " << int{frame.type} << ' ' << frame.seq << '\n';
      break;
    case Decoder::Event::kLongLine:
      std::cout << "long_line\n";
      break;
    case Decoder::Event::kNone:
      break;
  }
}

void Frames(const Arguments& arguments) {
  // On the heap, so that the sanitizer detects an overrun.
  const auto decoder = std::make_unique<Decoder>();
  for (const uint8_t byte : FromHex(arguments[0])) PrintEvent(*decoder, decoder->Feed(byte));
  PrintCounters(decoder->counters());
}

QuantParams Params(const Arguments& arguments) {
  return {Elements<float>(arguments[0])[0], static_cast<int8_t>(std::stoi(arguments[1]))};
}

void QuantizeAll(const Arguments& arguments) {
  std::vector<int8_t> results;
  for (const float value : Elements<float>(arguments[2])) results.push_back(Quantize(value, Params(arguments)));
  std::cout << ToHex(results.data(), results.size()) << '\n';
}

void NormalizeAll(const Arguments& arguments) {
  const auto number = [&](size_t i) { return Elements<float>(arguments[i])[0]; };
  std::vector<float> results;
  for (const float value : Elements<float>(arguments[3])) results.push_back(Normalize(value, number(0), number(1), number(2)));
  std::cout << ToHex(results.data(), results.size() * sizeof(float)) << '\n';
}

void DequantizeAll(const Arguments& arguments) {
  std::vector<float> results;
  for (const int8_t value : Elements<int8_t>(arguments[2])) results.push_back(Dequantize(value, Params(arguments)));
  std::cout << ToHex(results.data(), results.size() * sizeof(float)) << '\n';
}

void Parse(const Arguments& arguments) {
  const std::vector<uint8_t> line = FromHex(arguments[0]);
  float values[8];
  size_t count = 0;
  const Status status = ParseLine({reinterpret_cast<const char*>(line.data()), line.size()}, values, 8, &count);
  std::cout << StatusName(status) << ' ' << (status == Status::kOk ? ToHex(values, count * sizeof(float)) : "") << '\n';
}

void Format(const Arguments& arguments) {
  for (const float value : Elements<float>(arguments[0])) {
    const std::unique_ptr<char[]> text(new char[kMaxNumberText]);
    std::cout << std::string(text.get(), FormatFloat(value, text.get())) << '\n';
  }
}

void ChecksumOf(const Arguments& arguments) {
  std::vector<uint8_t> line = FromHex(arguments[0]);
  StringView text(reinterpret_cast<const char*>(line.data()), line.size());
  bool present = false;
  const Status status = TakeChecksum(&text, &present);
  line.resize(line.size() + 3);
  AddChecksum(reinterpret_cast<char*>(line.data()), line.size() - 3);
  std::cout << StatusName(status) << ' ' << present << ' ' << text.size << ' ' << ToHex(line.data(), line.size()) << '\n';
}

void ModelIdOf(const Arguments& arguments) {
  const std::vector<uint8_t> model = FromHex(arguments[0]);
  std::cout << ComputeModelId(model.data(), model.size()).text << '\n';
}

}  // namespace
}  // namespace hil::probe

int main() {
  using namespace hil::probe;
  FakeBoard board;
  const std::map<std::string, std::function<void(const Arguments&)>> commands = {
      {"frames", Frames},
      {"quantize", QuantizeAll},
      {"dequantize", DequantizeAll},
      {"normalize", NormalizeAll},
      {"parse", Parse},
      {"format", Format},
      {"model_id", ModelIdOf},
      {"checksum", ChecksumOf},
      {"server", [&](const Arguments& a) { board.Boot(static_cast<uint32_t>(std::stoul(a[0])), std::stoi(a[1])); }},
      {"feed", [&](const Arguments& a) { board.Feed(FromHex(a[0])); }},
      {"idle", [&](const Arguments&) { board.Feed({}); }},
      {"time", [&](const Arguments& a) { board.SetTime(std::stoull(a[0])); }},
      {"next", [&](const Arguments&) { std::cout << board.NextMs() << '\n'; }},
      {"uart", [&](const Arguments& a) { board.BlockUart(a[0] == "blocked"); }},
      {"normalized", [&](const Arguments& a) { board.SetNormalized(a[0] == "yes"); }},
      {"room", [&](const Arguments& a) { board.SetRoom(a[0] == "yes"); }},
      {"engine_us", [&](const Arguments& a) { board.SetEngineTime(std::stoull(a[0])); }},
      {"engine", [&](const Arguments& a) { board.SetEngineStatus(std::stoi(a[0])); }},
  };
  for (std::string line; std::getline(std::cin, line);) {
    std::istringstream words(line);
    std::string name;
    words >> name;
    Arguments arguments;
    for (std::string word; words >> word;) arguments.push_back(word);
    arguments.resize(4);  // no bytes are no word
    const auto command = commands.find(name);
    if (command == commands.end()) {
      std::cerr << "no such command: " << line << '\n';
      return 2;
    }
    command->second(arguments);
    std::cout << ".\n" << std::flush;
  }
  return 0;
}
