//! Seven services in machines of four vCPUs: each answers after each of its restores.

#[path = "support/services.rs"]
mod services;
#[path = "support/services_smp.rs"]
mod services_smp;
mod support;

services_smp::answer_in_machines_of!(4);
