// The native board: the firmware as a Linux process whose UART is a pseudo-terminal. Wiring only.

#include <csignal>
#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include <getopt.h>
#include <unistd.h>

#include "build_info.h"
#include "engine_int8/int8_engine.h"
#include "engine_remote/engine_remote.h"
#include "faults/fault.h"
#include "faults/faulty_conversion.h"
#include "faults/faulty_engine.h"
#include "hal_native/hal_native.h"
#include "model_id/model_id.h"
#include "server/server.h"

namespace {

constexpr int kUsageError = 2;
constexpr uint32_t kRxBuffer = 4096;  // what a pseudo-terminal takes before its writer has to wait

struct Options {
  int fd = -1;
  int engine_fd = -1;
  std::string model;
  std::string self_test;
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

Options ParseOptions(int argc, char** argv) {
  static const option kOptions[] = {
      {"fd", required_argument, nullptr, 'f'},           {"engine-fd", required_argument, nullptr, 'e'},
      {"model", required_argument, nullptr, 'm'},        {"self-test", required_argument, nullptr, 's'},
      {"engine", required_argument, nullptr, 'n'},       {"board-name", required_argument, nullptr, 'b'},
      {"watchdog-ms", required_argument, nullptr, 'w'},  {"arena-bytes", required_argument, nullptr, 'a'},
      {"upload-bytes", required_argument, nullptr, 'u'}, {"fault", required_argument, nullptr, 'x'},
      {"list-faults", no_argument, nullptr, 'l'},        {nullptr, 0, nullptr, 0},
  };
  Options options;
  int chosen = 0;
  for (int index = 0; (chosen = getopt_long(argc, argv, "", kOptions, &index)) != -1;) {
    switch (chosen) {
      case 'f':
        options.fd = static_cast<int>(ParseNumber("fd", optarg));
        break;
      case 'e':
        options.engine_fd = static_cast<int>(ParseNumber("engine-fd", optarg));
        break;
      case 'm':
        options.model = optarg;
        break;
      case 's':
        options.self_test = optarg;
        break;
      case 'n':
        options.engine = optarg;
        break;
      case 'b':
        options.board_name = optarg;
        break;
      case 'w':
        options.watchdog_ms = ParseNumber("watchdog-ms", optarg);
        break;
      case 'a':
        options.arena_bytes = ParseNumber("arena-bytes", optarg);
        break;
      case 'u':
        options.upload_bytes = ParseNumber("upload-bytes", optarg);
        break;
      case 'x':
        options.fault = ParseFault(optarg);
        break;
      case 'l':
        ListFaults();
      default:
        std::exit(kUsageError);
    }
  }
  if (optind < argc) Fail(std::string("unexpected argument: ") + argv[optind]);
  if (options.fd < 0) Fail("--fd is missing: the descriptor of the board's UART");
  if (options.engine != "tflm" && options.engine != "int8")
    Fail("no such engine: " + options.engine + " (there are: tflm, int8)");
  if (options.engine == "tflm" && options.engine_fd < 0)
    Fail("--engine-fd is missing: the descriptor of the socket to the engine's process");
  return options;
}

std::vector<uint8_t> ReadFile(const std::string& path) {
  if (path.empty()) return {};
  std::ifstream file(path, std::ios::binary);
  std::vector<uint8_t> bytes{std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
  if (!file.is_open() || file.bad()) Fail("cannot read " + path);
  return bytes;
}

/// Golden vectors as they lie in memory: all inputs, then all outputs.
class GoldenFile {
 public:
  explicit GoldenFile(const std::string& path) : rows_(ReadFile(path)) {}

  /// Splits rows of n_obs inputs and n_act outputs.
  hil::GoldenVectors Split(const hil::EngineInfo& model) {
    const size_t row = static_cast<size_t>(model.n_obs) + model.n_act;
    if (rows_.empty() || row == 0) return {};
    if (rows_.size() % row != 0) Fail("the self-test file does not hold whole rows of inputs and outputs of this model");
    const size_t count = rows_.size() / row;
    for (size_t i = 0; i < count; ++i) {
      const auto start = rows_.begin() + static_cast<std::ptrdiff_t>(i * row);
      inputs_.insert(inputs_.end(), start, start + model.n_obs);
      outputs_.insert(outputs_.end(), start + model.n_obs, start + static_cast<std::ptrdiff_t>(row));
    }
    return {inputs_.data(), outputs_.data(), static_cast<uint16_t>(count)};
  }

 private:
  std::vector<uint8_t> rows_;
  std::vector<int8_t> inputs_;
  std::vector<int8_t> outputs_;
};

constexpr size_t kArenaBytes = 64 * 1024;  // of the compact engine, for an uploaded model

/// Memory aligned for anything.
using Memory = std::vector<std::max_align_t>;

Memory Allocate(size_t bytes) { return Memory((bytes + sizeof(std::max_align_t) - 1) / sizeof(std::max_align_t)); }

uint8_t* BytesOf(Memory* memory) { return reinterpret_cast<uint8_t*>(memory->data()); }

/// One place for a model: engine, conversion and memory.
class Place {
 public:
  Place(const Options& options, uint8_t number, const hil::hal::Clock* clock)
      : options_(options),
        remote_engine_(options.engine.c_str(), options.engine_fd, number),
        engine_(IsCompact() ? static_cast<hil::Engine*>(&compact_engine_) : &remote_engine_),
        faulty_engine_(options.fault, engine_),
        faulty_conversion_(options.fault, engine_),
        inference_(IsHealthy() ? engine_ : &faulty_engine_, clock,
                   IsHealthy() ? static_cast<hil::Conversion*>(&hil::exact_conversion) : &faulty_conversion_),
        upload_(Allocate(options.upload_bytes)) {}

  /// Loads the model that the board starts with, in an arena of just what it needs, or of --arena-bytes.
  void Load(const hil::ByteSpan& model) {
    size_t bytes = options_.arena_bytes;
    if (IsCompact() && bytes == 0) hil::Int8Engine::RequiredArena(model, &bytes);  // a refusal comes up again in Load()
    Reserve(bytes);
    inference_.Load(model, {BytesOf(&arena_), bytes});
  }

  /// For an uploaded model.
  hil::ModelSlot Slot() {
    const size_t bytes = IsCompact() && options_.arena_bytes == 0 ? kArenaBytes : options_.arena_bytes;
    Reserve(bytes);
    return {&inference_, {BytesOf(&arena_), bytes}, BytesOf(&upload_), options_.upload_bytes};
  }

  const hil::Inference& inference() const { return inference_; }

 private:
  bool IsCompact() const { return options_.engine == "int8"; }
  bool IsHealthy() const { return options_.fault == hil::faults::Fault::kNone; }

  /// Room for any upload, or for more where the model that the board starts with needs it.
  void Reserve(size_t bytes) {
    if (arena_.empty()) arena_ = Allocate(IsCompact() && bytes < kArenaBytes ? kArenaBytes : bytes);
  }

  const Options& options_;
  hil::Int8Engine compact_engine_;
  hil::RemoteEngine remote_engine_;
  hil::Engine* engine_;
  hil::faults::FaultyEngine faulty_engine_;
  hil::faults::FaultyConversion faulty_conversion_;
  hil::Inference inference_;
  Memory arena_;
  Memory upload_;
};

}  // namespace

int main(int argc, char** argv) {
  // The process lives and dies with its port. Ctrl-C in the terminal is for the host program, which still wants its answers.
  std::signal(SIGINT, SIG_IGN);
  std::signal(SIGTERM, [](int) { _exit(EXIT_SUCCESS); });

  const Options options = ParseOptions(argc, argv);
  const std::vector<uint8_t> model = ReadFile(options.model);
  GoldenFile golden(options.self_test);

  hil::native::FdUart uart(options.fd);
  hil::native::MonotonicClock clock;
  hil::native::NoActuator actuator;
  hil::native::ProcessSystem system(argv);
  if (!uart.Open()) Fail("--fd " + std::to_string(options.fd) + " is not an open descriptor");

  Place first(options, 0, &clock);
  Place second(options, 1, &clock);
  first.Load({model.data(), model.size()});

  const hil::ModelId model_id = hil::ComputeModelId(model.data(), model.size());
  hil::ServerConfig config;
  config.identity.firmware_commit = HIL_FIRMWARE_COMMIT;
  config.identity.board = options.board_name.c_str();
  config.identity.processor = HIL_PROCESSOR;
  config.identity.rx_buffer = kRxBuffer;
  config.identity.ram = hil::native::StaticRamBytes();
  config.identity.flash = hil::native::ImageBytes();
  config.watchdog_ms = options.watchdog_ms;

  hil::Models models(first.Slot(), second.Slot(), model_id.text, golden.Split(first.inference().info()));
  static hil::Server server(config, {&uart, &clock, &actuator, &system}, &models);
  server.Boot(hil::native::ProcessSystem::Cause());

  uint8_t received[kRxBuffer];
  bool closed = false;
  while (!closed) {
    const auto wake = uart.Wait(server.MsToNextEvent());
    if (wake == hil::native::FdUart::Wake::kClosed) break;
    const size_t size = wake == hil::native::FdUart::Wake::kData ? uart.Read(received, sizeof(received), &closed) : 0;
    server.Step(received, size);
  }
  return EXIT_SUCCESS;
}
