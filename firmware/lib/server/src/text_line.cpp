#include "server/text_line.h"

#include <cmath>
#include <limits>

namespace hil {
namespace {

constexpr int kSignificantDigits = 9;
constexpr int kMantissaDigits = 19;     // as many as a uint64_t holds
constexpr int kExponentLimit = 10'000;  // beyond it every number that fits into a line is 0 or infinite
constexpr size_t kChecksumSize = 3;

/// Reads one line from left to right.
class Cursor {
 public:
  explicit Cursor(const StringView& text) : at_(text.data), end_(text.data + text.size) {}

  bool AtEnd() const { return at_ == end_; }
  char Peek() const { return AtEnd() ? '\0' : *at_; }
  bool PeekDigit() const { return Peek() >= '0' && Peek() <= '9'; }
  char Take() { return *at_++; }

  bool TakeIf(char wanted) {
    if (Peek() != wanted || AtEnd()) return false;
    ++at_;
    return true;
  }

  void SkipBlanks() {
    while (Peek() == ' ' || Peek() == '\t') ++at_;
  }

  /// Skips `word`, case-insensitively.
  bool TakeWord(const char* word) {
    const char* at = at_;
    for (; *word != '\0'; ++word, ++at) {
      if (at == end_ || (*at | 0x20) != *word) return false;
    }
    at_ = at;
    return true;
  }

 private:
  const char* at_;
  const char* end_;
};

double PowerOfTen(int exponent) {
  double result = 1.0;
  double base = 10.0;
  for (unsigned left = static_cast<unsigned>(exponent < 0 ? -exponent : exponent); left != 0; left >>= 1) {
    if ((left & 1u) != 0) result *= base;
    base *= base;
  }
  return result;
}

double Scale(double value, int exponent) { return exponent < 0 ? value / PowerOfTen(-exponent) : value * PowerOfTen(exponent); }

// Parses digits with an optional decimal point; false without a digit. `*exponent`: shift by the point and by dropped digits.
bool ParseMantissa(Cursor* cursor, uint64_t* mantissa, int* exponent) {
  int digits = 0;
  bool any = false;
  bool after_point = false;
  for (;;) {
    if (cursor->PeekDigit()) {
      any = true;
      const auto digit = static_cast<uint64_t>(cursor->Take() - '0');
      const bool kept = digits < kMantissaDigits;
      if (kept) *mantissa = *mantissa * 10 + digit;
      if (kept && *mantissa != 0) ++digits;
      *exponent += (kept ? 0 : 1) - (after_point ? 1 : 0);
    } else if (!after_point && cursor->TakeIf('.')) {
      after_point = true;
    } else {
      return any;
    }
  }
}

bool ParseExponent(Cursor* cursor, int* exponent) {
  if (!cursor->TakeIf('e') && !cursor->TakeIf('E')) return true;
  const bool negative = cursor->TakeIf('-');
  if (!negative) cursor->TakeIf('+');
  if (!cursor->PeekDigit()) return false;
  int value = 0;
  while (cursor->PeekDigit()) {
    value = value * 10 + (cursor->Take() - '0');
    if (value > kExponentLimit) value = kExponentLimit;
  }
  *exponent += negative ? -value : value;
  return true;
}

bool ParseNumber(Cursor* cursor, float* value) {
  const bool negative = cursor->TakeIf('-');
  if (!negative) cursor->TakeIf('+');
  double magnitude = 0.0;
  uint64_t mantissa = 0;
  int exponent = 0;
  if (cursor->TakeWord("nan")) {
    magnitude = std::numeric_limits<double>::quiet_NaN();
  } else if (cursor->TakeWord("inf")) {
    cursor->TakeWord("inity");
    magnitude = std::numeric_limits<double>::infinity();
  } else if (ParseMantissa(cursor, &mantissa, &exponent) && ParseExponent(cursor, &exponent)) {
    // In two steps, because a power of ten beyond the range of a double would give 0 too early.
    const int first = exponent < -300 ? -300 : exponent;
    magnitude = mantissa == 0 ? 0.0 : Scale(Scale(static_cast<double>(mantissa), first), exponent - first);
  } else {
    return false;
  }
  *value = static_cast<float>(negative ? -magnitude : magnitude);
  return true;
}

// Nine digits d such that value = d.dddddddd * 10^exponent.
uint32_t Digits(double magnitude, int* exponent) {
  int power = static_cast<int>(std::floor(std::log10(magnitude)));
  double scaled = std::round(Scale(magnitude, kSignificantDigits - 1 - power));
  if (scaled >= 1e9) {  // rounded up to a power of ten, or log10 was just below it
    ++power;
    scaled = std::round(Scale(magnitude, kSignificantDigits - 1 - power));
  } else if (scaled < 1e8) {
    --power;
    scaled = std::round(Scale(magnitude, kSignificantDigits - 1 - power));
  }
  *exponent = power;
  return static_cast<uint32_t>(scaled);
}

int HexDigit(char character) {
  if (character >= '0' && character <= '9') return character - '0';
  const int letter = (character | 0x20) - 'a';
  return letter >= 0 && letter < 6 ? 10 + letter : -1;
}

int Checksum(const char* text, size_t size) {
  int sum = 0;
  for (size_t i = 0; i < size; ++i) sum ^= text[i];
  return sum;
}

}  // namespace

Status TakeChecksum(StringView* line, bool* present) {
  *present = line->size >= kChecksumSize && line->data[line->size - kChecksumSize] == '*';
  if (!*present) return Status::kOk;
  const char* const digits = line->data + line->size - 2;
  line->size -= kChecksumSize;
  const int high = HexDigit(digits[0]);
  const int low = HexDigit(digits[1]);
  const bool right = high >= 0 && low >= 0 && Checksum(line->data, line->size) == 16 * high + low;
  return right ? Status::kOk : Status::kLineDamaged;
}

size_t AddChecksum(char* text, size_t size) {
  const int sum = Checksum(text, size);
  text[size] = '*';
  text[size + 1] = "0123456789abcdef"[sum >> 4 & 0x0F];
  text[size + 2] = "0123456789abcdef"[sum & 0x0F];
  return size + kChecksumSize;
}

Status ParseLine(const StringView& line, float* values, size_t capacity, size_t* count) {
  Cursor cursor(line);
  *count = 0;
  for (;;) {
    cursor.SkipBlanks();
    float value = 0.0f;
    if (!ParseNumber(&cursor, &value)) return Status::kMalformedLine;
    if (*count == capacity) return Status::kWrongCount;
    values[(*count)++] = value;
    cursor.SkipBlanks();
    if (cursor.AtEnd()) return Status::kOk;
    if (!cursor.TakeIf(',')) return Status::kMalformedLine;
  }
}

size_t FormatFloat(float value, char* out) {
  char* at = out;
  if (std::signbit(value)) *at++ = '-';
  const double magnitude = std::fabs(static_cast<double>(value));
  int exponent = 0;
  uint32_t digits = magnitude == 0.0 ? 0 : Digits(magnitude, &exponent);
  char text[kSignificantDigits];
  for (int i = kSignificantDigits - 1; i >= 0; --i, digits /= 10) text[i] = static_cast<char>('0' + digits % 10);
  int last = kSignificantDigits - 1;
  while (last > 0 && text[last] == '0') --last;

  const bool scientific = exponent < -4 || exponent >= kSignificantDigits;
  const int point = scientific ? 0 : exponent;  // index of the digit before the point; negative: leading zeros
  for (int i = point < 0 ? point : 0; i <= last || i <= point; ++i) {
    *at++ = i < 0 || i > last ? '0' : text[i];
    if (i == point && i < last) *at++ = '.';
  }
  if (scientific) {
    *at++ = 'e';
    *at++ = exponent < 0 ? '-' : '+';
    const int shown = exponent < 0 ? -exponent : exponent;
    *at++ = static_cast<char>('0' + shown / 10);
    *at++ = static_cast<char>('0' + shown % 10);
  }
  return static_cast<size_t>(at - out);
}

}  // namespace hil
