//! Seven services on two vCPUs: each answers after every restore.

mod services;
#[path = "services/smp.rs"]
mod services_smp;

services_smp::answer_in_machines_of!(2);
