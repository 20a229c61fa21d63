// The native board: the firmware as a Linux process whose UART is a socket or a pseudo-terminal. Wiring only.

#include <csignal>
#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <map>
#include <string>
#include <vector>

#include <unistd.h>

#include "board/board.h"
#include "board/built_config.h"
#include "engine_int8/int8_engine.h"
#include "engine_remote/engine_remote.h"
#include "faults/fault.h"
#include "faults/faulty_conversion.h"
#include "faults/faulty_engine.h"
#include "hal_native/hal_native.h"

namespace {

constexpr int kUsageError = 2;
constexpr uint32_t kRxBuffer = 4096;  // what a pseudo-terminal buffers before its writer blocks; a socket buffers more

struct Options {
  int fd = -1;
  int engine_fd = -1;
  std::string image;
  std::string engine = "tflm";
  std::string board_name = "native";
  uint32_t watchdog_ms = hil::protocol::kWatchdogMs;
  uint32_t arena_bytes = 0;
  uint32_t upload_bytes = 256 * 1024;
  hil::faults::Fault fault = hil::faults::Fault::kNone;
};

[[noreturn]] void Fail(const std::string& message) {
  std::fprintf(stderr, "error: %s\n", message.c_str());
  std::exit(kUsageError);
}

uint32_t ParseNumber(const char* option, const char* text) {
  char* end = nullptr;
  const unsigned long value = std::strtoul(text, &end, 10);
  if (*text < '0' || *text > '9' || *end != '\0' || value > UINT32_MAX)
    Fail(std::string("--") + option + " takes a number, not " + text);
  return static_cast<uint32_t>(value);
}

hil::faults::Fault ParseFault(const char* name) {
  const hil::faults::Fault fault = hil::faults::Find(name);
  if (fault == hil::faults::Fault::kNone) Fail(std::string("no such fault: ") + name + " (--list-faults names them)");
  return fault;
}

[[noreturn]] void ListFaults() {
  size_t count = 0;
  const hil::faults::Entry* gallery = hil::faults::Gallery(&count);
  for (size_t i = 0; i < count; ++i) std::printf("%s\t%s\n", gallery[i].name, gallery[i].description);
  std::exit(EXIT_SUCCESS);
}

using Setter = void (*)(Options*, const char*);
const std::map<std::string, Setter> setters = {
    {"--fd", [](Options* o, const char* value) { o->fd = static_cast<int>(ParseNumber("fd", value)); }},
    {"--engine-fd", [](Options* o, const char* value) { o->engine_fd = static_cast<int>(ParseNumber("engine-fd", value)); }},
    {"--image", [](Options* o, const char* value) { o->image = value; }},
    {"--engine", [](Options* o, const char* value) { o->engine = value; }},
    {"--board-name", [](Options* o, const char* value) { o->board_name = value; }},
    {"--watchdog-ms", [](Options* o, const char* value) { o->watchdog_ms = ParseNumber("watchdog-ms", value); }},
    {"--arena-bytes", [](Options* o, const char* value) { o->arena_bytes = ParseNumber("arena-bytes", value); }},
    {"--upload-bytes", [](Options* o, const char* value) { o->upload_bytes = ParseNumber("upload-bytes", value); }},
    {"--fault", [](Options* o, const char* value) { o->fault = ParseFault(value); }},
};

Options ParseOptions(int argc, char** argv) {
  Options options;
  for (int i = 1; i < argc; i += 2) {
    const std::string name = argv[i];
    if (name == "--list-faults") ListFaults();
    const auto setter = setters.find(name);
    if (setter == setters.end()) Fail((name[0] == '-' ? "unrecognized option: " : "unexpected argument: ") + name);
    if (i + 1 == argc) Fail(name + " needs a value");
    setter->second(&options, argv[i + 1]);
  }
  if (options.fd < 0) Fail("--fd is missing: the descriptor of the board's UART");
  if (options.engine != "tflm" && options.engine != "int8")
    Fail("no such engine: " + options.engine + " (there are: tflm, int8)");
  if (options.engine == "tflm" && options.engine_fd < 0)
    Fail("--engine-fd is missing: the descriptor of the socket to the engine's process");
  return options;
}

constexpr size_t kArenaBytes = 64 * 1024;  // of the compact engine, for an uploaded model

/// Memory aligned for anything.
using Memory = std::vector<std::max_align_t>;

Memory Allocate(size_t bytes) { return Memory((bytes + sizeof(std::max_align_t) - 1) / sizeof(std::max_align_t)); }

uint8_t* BytesOf(Memory* memory) { return reinterpret_cast<uint8_t*>(memory->data()); }

/// The model that the board starts with, from a file: size u16 and payload of LOAD_BEGIN, then the data of the upload.
class ImageFile {
 public:
  explicit ImageFile(const std::string& path) {
    if (path.empty()) return;
    std::ifstream file(path, std::ios::binary);
    bytes_.assign(std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>());
    if (!file.is_open() || file.bad()) Fail("cannot read " + path);
    uint16_t size = 0;
    hil::PayloadReader reader(bytes_.data(), bytes_.size());
    if (!reader.Read(&size) || bytes_.size() < sizeof size + size) Fail(path + " does not start with a LOAD_BEGIN");
    hil::PayloadReader payload(bytes_.data() + sizeof size, size);
    hil::protocol::LoadBegin announced;
    const size_t start = sizeof size + size;
    if (!announced.Read(&payload) || bytes_.size() - start != hil::UploadSize(announced)) Fail(path + " is truncated");
    aligned_ = Allocate(bytes_.size() - start);
    if (!aligned_.empty()) std::memcpy(aligned_.data(), bytes_.data() + start, bytes_.size() - start);
    id_.assign(announced.model_id.data, announced.model_id.size);
    image_ = hil::UploadedImage(announced, BytesOf(&aligned_), id_.c_str());
  }

  const hil::ModelImage& image() const { return image_; }

 private:
  std::vector<uint8_t> bytes_;
  Memory aligned_;
  std::string id_;
  hil::ModelImage image_;
};

/// One place for a model: engine, conversion and memory.
class NativePlace {
 public:
  /// `flashed`: the model that is loaded here at the start; empty for the place of the first upload.
  NativePlace(const Options& options, uint8_t number, const hil::ByteSpan& flashed)
      : options_(options),
        remote_engine_(options.engine.c_str(), options.engine_fd, number),
        engine_(IsCompact() ? static_cast<hil::Engine*>(&compact_engine_) : &remote_engine_),
        faulty_engine_(options.fault, engine_),
        faulty_conversion_(options.fault, engine_),
        arena_bytes_(ArenaBytes(flashed)),
        arena_(Allocate(arena_bytes_)),
        upload_(Allocate(options.upload_bytes)) {}

  hil::Place place() {
    const bool healthy = options_.fault == hil::faults::Fault::kNone;
    return {healthy ? engine_ : &faulty_engine_,
            {BytesOf(&arena_), arena_bytes_},
            BytesOf(&upload_),
            options_.upload_bytes,
            healthy ? &hil::exact_conversion : static_cast<hil::Conversion*>(&faulty_conversion_)};
  }

 private:
  bool IsCompact() const { return options_.engine == "int8"; }

  /// --arena-bytes; else what the flashed model needs, and room for any upload.
  size_t ArenaBytes(const hil::ByteSpan& flashed) const {
    size_t bytes = options_.arena_bytes;
    if (!IsCompact() || bytes != 0) return bytes;
    if (flashed.size > 0) compact_engine_.RequiredArena(flashed, &bytes, true);  // a refusal is reported when it is loaded
    return bytes > kArenaBytes ? bytes : kArenaBytes;
  }

  const Options& options_;
  hil::Int8Engine compact_engine_{&hil::int8::kAllKernels};
  hil::RemoteEngine remote_engine_;
  hil::Engine* engine_;
  hil::faults::FaultyEngine faulty_engine_;
  hil::faults::FaultyConversion faulty_conversion_;
  size_t arena_bytes_;
  Memory arena_;
  Memory upload_;
};

}  // namespace

int main(int argc, char** argv) {
  // The process ends when its port closes. Ctrl-C in the terminal is meant for the host program, which still needs the replies.
  std::signal(SIGINT, SIG_IGN);
  std::signal(SIGPIPE, SIG_IGN);
  std::signal(SIGTERM, [](int) { _exit(EXIT_SUCCESS); });

  const Options options = ParseOptions(argc, argv);
  const ImageFile file(options.image);

  hil::native::FdUart uart(options.fd);
  hil::native::MonotonicClock clock;
  hil::hal::NoActuator actuator;
  hil::native::ProcessSystem system(argv);
  if (!uart.Open()) Fail("--fd " + std::to_string(options.fd) + " is not an open descriptor");

  hil::ServerConfig config = hil::BuiltConfig();
  config.identity.board = options.board_name.c_str();
  config.identity.rx_buffer = kRxBuffer;
  config.identity.ram = hil::native::StaticRamBytes();
  config.identity.flash = hil::native::ImageBytes();
  config.watchdog_ms = options.watchdog_ms;

  NativePlace first(options, 0, file.image().model);
  NativePlace second(options, 1, {});
  static hil::Board board(config, {&uart, &clock, &actuator, &system}, first.place(), second.place());
  // A faulty board must run, so that tools can detect the fault.
  board.Start(file.image(), hil::native::ProcessSystem::Cause(), options.fault == hil::faults::Fault::kNone);

  uint8_t received[kRxBuffer];
  bool closed = false;
  while (!closed) {
    const auto wake = uart.Wait(board.MsToNextEvent());
    if (wake == hil::native::FdUart::Wake::kClosed) break;
    const size_t size = wake == hil::native::FdUart::Wake::kData ? uart.Read(received, sizeof(received), &closed) : 0;
    board.Step(received, size);
  }
  return EXIT_SUCCESS;
}
