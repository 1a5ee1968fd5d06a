//! What follows from an exit.

use std::thread;
use std::time::Duration;

use applevisor_sys::hv_reg_t;

use super::{HvfVcpu, Stop};
use crate::backend::HypervisorError;
use crate::backend::hvf::exception::inject_undefined;
use crate::backend::hvf::exits::{Call, Event, RegisterAccess};
use crate::backend::hvf::framework::host_counter;
use crate::backend::hvf::presence::Power;
use crate::backend::hvf::psci::{self, Outcome};
use crate::backend::hvf::trapped::{self, Answer};
use crate::backend::hvf::{registers, timer};

/// How long a vCPU waits for an interrupt, if the framework leaves waiting to this program. The
/// messages of other vCPUs pass it by, so it looks into the guest again and again.
const LONGEST_WAIT: Duration = Duration::from_millis(1);

impl HvfVcpu {
    /// Does what an exit asks for. Returns `None` if the vCPU is to run again.
    pub(super) fn serve(&mut self, event: Event) -> Result<Option<Stop>, HypervisorError> {
        match event {
            Event::Canceled => {
                // The kick that caused it, if it did not come before the guest ran.
                self.presence.take_kick();
                return Ok(Some(Stop::Kicked));
            }
            Event::Access(access) => return Ok(Some(Stop::Access(access))),
            Event::Failed { reason, code } => return Ok(Some(Stop::Failed { reason, code })),
            Event::Call(call) => return self.serve_call(call),
            Event::Register(access) => self.serve_register(access)?,
            Event::CacheMaintenance => self.advance()?,
            Event::Wfe => {
                self.advance()?;
                thread::yield_now();
            }
            Event::Wfi => {
                self.advance()?;
                self.idle()?;
            }
            // Not expected with the framework's interrupt controller, which sees the timer itself.
            Event::Timer => {
                self.is_timer_masked = true;
                self.shared.controller.send_timer(&self.cpu)?;
            }
        }
        Ok(None)
    }

    fn serve_call(&mut self, call: Call) -> Result<Option<Stop>, HypervisorError> {
        if call.is_before {
            self.advance()?;
        }
        let [function, first, second, third] =
            [hv_reg_t::X0, hv_reg_t::X1, hv_reg_t::X2, hv_reg_t::X3]
                .map(|register| self.cpu.register(register));
        let (function, arguments) = (function? as u32, [first?, second?, third?]);
        let outcome = match call.immediate {
            0 => psci::call(&self.shared.peers, function, arguments),
            _ => Outcome::Return(psci::NOT_SUPPORTED),
        };
        match outcome {
            Outcome::Return(value) => self.answer(value)?,
            Outcome::Suspend => {
                self.answer(psci::SUCCESS)?;
                self.idle()?;
            }
            Outcome::Off => self.presence.set_power(Power::Off),
            Outcome::Shutdown => return Ok(Some(Stop::Shutdown)),
        }
        Ok(None)
    }

    fn answer(&self, value: i64) -> Result<(), HypervisorError> {
        self.cpu.set_register(hv_reg_t::X0, value.cast_unsigned())
    }

    fn serve_register(&mut self, access: RegisterAccess) -> Result<(), HypervisorError> {
        let RegisterAccess { encoding, register, is_read } = access;
        let answer = if is_read {
            trapped::read(encoding, self.is_locked, host_counter())
        } else {
            trapped::write(encoding, self.general(register)?)
        };
        match answer {
            Answer::Value(value) => self.set_general(register, value)?,
            Answer::Lock(is_locked) => self.is_locked = is_locked,
            Answer::Ignored => {}
            Answer::Undefined => return inject_undefined(&self.cpu),
        }
        self.advance()
    }

    /// Waits for an interrupt, or for as long as no timer fires.
    fn idle(&self) -> Result<(), HypervisorError> {
        let (virtual_timer, physical_timer) = registers::timers(&self.cpu)?;
        let clock = (host_counter(), self.offset);
        let hz = self.shared.frequency_hz;
        let wait = timer::until_first(virtual_timer, physical_timer, clock, hz);
        self.presence.idle(wait.unwrap_or(LONGEST_WAIT).min(LONGEST_WAIT));
        Ok(())
    }
}
