// The HAL of the chip that the board's JSON file chooses, under one set of names.
#pragma once

#if defined(HIL_CHIP_STM32F4)
#include "hal_stm32/hal_stm32.h"
namespace chip {
using namespace hil::stm32;
using Uart = hil::stm32::Usart2;
using Clock = hil::stm32::TimerClock;
}  // namespace chip
#elif defined(HIL_CHIP_RP2040)
#include "hal_rp2040/hal_rp2040.h"
namespace chip {
using namespace hil::rp2040;
using Uart = hil::rp2040::Uart0;
using Clock = hil::rp2040::TimerClock;
}  // namespace chip
#elif defined(HIL_CHIP_CUSTOM)
#include "hal_cortex/ticks.h"
#include "hal_custom/hal_custom.h"
namespace chip {
using namespace hil::custom;
using Uart = hil::custom::Port;
using Clock = hil::cortex::TickClock;
}  // namespace chip
#else
#include "hal_mps/hal_mps.h"
namespace chip {
using namespace hil::mps;
using Uart = hil::mps::CmsdkUart;
using Clock = hil::mps::FpgaClock;
}  // namespace chip
#endif
