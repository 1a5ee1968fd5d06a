//! Seven services in machines of eight vCPUs: each answers after each of its restores.

mod services;
#[path = "services/smp.rs"]
mod services_smp;

services_smp::answer_in_machines_of!(8);
