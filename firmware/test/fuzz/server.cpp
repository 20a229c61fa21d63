// Fuzz target: arbitrary host behavior. Raw bytes, valid frames of any type and payload, silence, not reading.
//
//   input: moves; each a byte for its kind, and its data
#include <cstddef>
#include <cstdint>
#include <vector>

#include "board.h"
#include "fuzz_input.h"

namespace {

using hil::fuzz::Board;
using hil::fuzz::Input;
using hil::fuzz::Require;

constexpr uint32_t kMaxMoves = 200;

void SendFrame(Board* board, Input* input) {
  const uint8_t type = static_cast<uint8_t>(0x80 | input->Byte());
  size_t size = 0;
  const uint8_t* payload = input->Bytes(input->Short() % (hil::protocol::kMaxPayload + 1), &size);
  board->Send(type, payload, size);
}

void SendBytes(Board* board, Input* input) {
  size_t size = 0;
  const uint8_t* bytes = input->Bytes(input->Byte(), &size);
  const std::vector<uint8_t> exact(bytes, bytes + size);
  board->Step(exact.data(), exact.size());
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  Input input(data, size);
  Board board;
  for (uint32_t move = 0; move < kMaxMoves && !input.AtEnd(); ++move) {
    const uint8_t kind = input.Byte();
    switch (kind % 8) {
      case 0:
      case 1:
      case 2:
        SendFrame(&board, &input);
        break;
      case 3:
        SendBytes(&board, &input);
        break;
      case 4:
        board.Send(hil::protocol::Hello{input.Byte()});
        break;
      case 5:
        board.machine().now_us += uint64_t{input.Short()} * 1000;
        board.Step(nullptr, 0);
        break;
      case 6:
        board.machine().blocked = (kind & 0x80) != 0;
        break;
      default:
        Require(board.board().MsToNextEvent() > 0 || board.machine().now_us > 0, "nothing is due before any time has passed");
        break;
    }
  }
  // The server must still answer.
  board.machine().blocked = false;
  board.Send(hil::protocol::Hello{1});
  Require(board.machine().last.type == static_cast<uint8_t>(hil::protocol::MessageType::kInfo), "HELLO is answered by INFO");
  return 0;
}
