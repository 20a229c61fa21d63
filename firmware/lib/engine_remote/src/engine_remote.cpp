#include "engine_remote/engine_remote.h"

#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "frame/payload.h"

namespace hil {
namespace {

constexpr size_t kRequestHeader = 6;
constexpr size_t kReplyHeader = 9;
constexpr size_t kInline = 300;  // a request up to this size goes out in one send()

void CopyText(char* out, size_t capacity, const uint8_t* text, size_t size) {
  const size_t length = std::min(size, capacity - 1);
  std::memcpy(out, text, length);
  out[length] = '\0';
}

bool IsStatus(uint8_t value) { return value <= static_cast<uint8_t>(Status::kEngineLost); }

}  // namespace

Status RemoteEngine::Init(const ByteSpan& model, const Arena& arena) {
  const char* name = info_.name;
  info_ = {};
  info_.name = name;
  const auto arena_size = static_cast<uint32_t>(arena.size);
  const Status status = Call(Command::kInit, {&arena_size, sizeof(arena_size)}, {model.data, model.size});
  if (status != Status::kOk) return status;
  PayloadReader reader(reply_.get(), reply_size_);
  StringView version;
  uint8_t type = 0;
  const bool complete = reader.Read(&info_.n_obs) && reader.Read(&info_.n_act) && reader.Read(&info_.n_ops) &&
                        reader.Read(&type) && reader.Read(&info_.input.scale) && reader.Read(&info_.input.zero_point) &&
                        reader.Read(&info_.output.scale) && reader.Read(&info_.output.zero_point) &&
                        reader.Read(&info_.arena_used) && reader.Read(&info_.arena_size) && reader.Read(&version) &&
                        reader.AtEnd();
  if (!complete || type > static_cast<uint8_t>(ElementType::kFloat32)) return Malformed();
  info_.input.type = info_.output.type = static_cast<ElementType>(type);
  CopyText(version_, sizeof(version_), reinterpret_cast<const uint8_t*>(version.data), version.size);
  info_.version = version_;
  return Status::kOk;
}

Status RemoteEngine::Infer(const int8_t* input, int8_t* output) {
  // A short input goes out together with its header.
  const Part whole = {input, size_t{info_.n_obs} * WidthOf(info_.input.type)};
  const Status status =
      whole.size <= kInline ? Call(Command::kInfer, whole, {nullptr, 0}) : Call(Command::kInfer, {input, 0}, whole);
  if (status != Status::kOk) return status;
  if (reply_size_ != size_t{info_.n_act} * WidthOf(info_.output.type)) return Malformed();
  std::memcpy(output, reply_.get(), reply_size_);
  return Status::kOk;
}

Status RemoteEngine::Tensor(uint16_t op, TensorView* values) {
  const Status status = Call(Command::kTensor, {&op, sizeof(op)}, {nullptr, 0});
  if (status != Status::kOk) return status;
  *values = TensorView::FromBytes(reply_.get(), static_cast<uint32_t>(reply_size_));
  return Status::kOk;
}

Status RemoteEngine::Call(Command command, const Part& head, const Part& body) {
  uint8_t request[kRequestHeader + kInline];
  const auto size = static_cast<uint32_t>(head.size + body.size);
  request[0] = static_cast<uint8_t>(command);
  request[1] = model_;
  std::memcpy(request + 2, &size, sizeof(size));
  std::memcpy(request + kRequestHeader, head.data, head.size);
  if (!SendAll(request, kRequestHeader + head.size)) return Lost();
  if (body.size > 0 && !SendAll(static_cast<const uint8_t*>(body.data), body.size)) return Lost();
  return ReceiveReply();
}

Status RemoteEngine::ReceiveReply() {
  message_[0] = '\0';
  // One recv() usually returns a short reply completely.
  uint8_t chunk[kReplyHeader + kInline];
  size_t received = 0;
  while (received < kReplyHeader) {
    const ssize_t count = recv(fd_, chunk + received, sizeof(chunk) - received, 0);
    if (count == 0 || (count < 0 && errno != EINTR)) return Lost();
    if (count > 0) received += static_cast<size_t>(count);
  }
  uint32_t size = 0;
  std::memcpy(&detail_, chunk + 1, sizeof(detail_));
  std::memcpy(&size, chunk + 5, sizeof(size));
  const size_t early = received - kReplyHeader;
  if (!IsStatus(chunk[0]) || size > kMaxReply || early > size) return Malformed();
  std::memcpy(reply_.get(), chunk + kReplyHeader, early);
  if (!ReceiveAll(reply_.get() + early, size - early)) return Lost();
  reply_size_ = size;
  const auto status = static_cast<Status>(chunk[0]);
  if (status != Status::kOk) CopyText(message_, sizeof(message_), reply_.get(), reply_size_);
  return status;
}

Status RemoteEngine::Lost() {
  constexpr char kText[] = "the process that runs the engine is gone";
  std::memcpy(message_, kText, sizeof(kText));
  detail_ = 0;
  return Status::kEngineLost;
}

Status RemoteEngine::Malformed() {
  constexpr char kText[] = "the process that runs the engine sent an invalid reply";
  std::memcpy(message_, kText, sizeof(kText));
  detail_ = 0;
  return Status::kEngineLost;
}

bool RemoteEngine::SendAll(const uint8_t* data, size_t size) {
  while (size > 0) {
    const ssize_t count = send(fd_, data, size, MSG_NOSIGNAL);
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) return false;
    data += count;
    size -= static_cast<size_t>(count);
  }
  return true;
}

bool RemoteEngine::ReceiveAll(uint8_t* data, size_t size) {
  while (size > 0) {
    const ssize_t count = recv(fd_, data, size, MSG_WAITALL);
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) return false;
    data += count;
    size -= static_cast<size_t>(count);
  }
  return true;
}

}  // namespace hil
